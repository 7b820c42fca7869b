# SPDX-License-Identifier: Apache-2.0
"""Joint calling: what the gVCFs of many samples say about a region, as one multi-sample VCF."""
