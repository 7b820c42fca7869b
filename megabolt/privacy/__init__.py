# SPDX-License-Identifier: Apache-2.0
"""Consent before data: permits and the audit log."""
