# SPDX-License-Identifier: Apache-2.0
"""`python -m megabolt` is the same as `megabolt`."""

from megabolt.cli.main import entry

if __name__ == "__main__":
    entry()
