/* SPDX-License-Identifier: Apache-2.0
 * Pair-HMM forward algorithm. Contract and equations: megabolt/compute/pairhmm/__init__.py.
 *
 * One group computes one pair, anti-diagonal by anti-diagonal: on wave w lie the cells (i, j) with i + j = w, and
 * they depend only on waves w - 1 and w - 2. Items share out the read bases i. i over read, j over haplotype,
 * n and m their lengths. Base codes A C G T N = 0 1 2 3 4 (megabolt/formats/bases.py).
 */
#define MAX_READ 512
#define N_CODE 4

KERNEL pairhmm(GLOBAL const u8 *RESTRICT reads, GLOBAL const u8 *RESTRICT qualities,
               GLOBAL const i64 *RESTRICT read_offsets, GLOBAL const u8 *RESTRICT haps,
               GLOBAL const float *RESTRICT gap_open, GLOBAL const float *RESTRICT gap_extend,
               GLOBAL const i64 *RESTRICT hap_offsets, GLOBAL const int *RESTRICT pairs,
               GLOBAL const float *RESTRICT priors, /* P(wrong) / 3 of 256 qualities, then 1 - P(wrong) */
               float scale, GLOBAL float *RESTRICT sums)
{
    LOCAL float M[3][MAX_READ + 1]; /* [w % 3][i] <- M(i, w - i); I and D alike */
    LOCAL float I[3][MAX_READ + 1];
    LOCAL float D[3][MAX_READ + 1];
    LOCAL float wrong[MAX_READ + 1];
    LOCAL float right[MAX_READ + 1];
    LOCAL u8 base[MAX_READ + 1];
    const int pair = GROUP_ID;
    const i64 read_start = read_offsets[pairs[2 * pair]];
    const i64 hap_start = hap_offsets[pairs[2 * pair + 1]];
    const int n = (int)(read_offsets[pairs[2 * pair] + 1] - read_start);
    const int m = (int)(hap_offsets[pairs[2 * pair + 1] + 1] - hap_start);
    float total = 0.0f; /* of the item that owns row n */

    for (int i = 1 + LOCAL_ID; i <= n; i += LOCAL_SIZE) {
        const int quality = qualities[read_start + i - 1];
        base[i] = reads[read_start + i - 1];
        right[i] = priors[256 + quality];
        wrong[i] = base[i] == N_CODE ? right[i] : priors[quality];
    }
    for (int w = 1; w <= n + m; w++) { /* at most 512 + 1024 waves */
        const int here = w % 3, prev = (w + 2) % 3, prev2 = (w + 1) % 3;
        for (int i = 1 + LOCAL_ID; i <= n; i += LOCAL_SIZE) {
            const int j = w - i;
            if (j == 0) { /* the edge */
                M[here][i] = 0.0f;
                I[here][i] = 0.0f;
                D[here][i] = 0.0f;
            } else if (j > 0 && j <= m) {
                const i64 at = hap_start + j - 1;
                const i64 after = j < m ? at + 1 : at;
                const float g = gap_open[at], x = gap_extend[at];
                const float prior = haps[at] == base[i] || haps[at] == N_CODE ? right[i] : wrong[i];
                if (i == 1) {
                    M[here][i] = prior * (scale / (float)m);
                    I[here][i] = 0.0f;
                } else {
                    M[here][i] = prior * ((1.0f - 2.0f * g) * M[prev2][i - 1]
                                          + (1.0f - x) * (I[prev2][i - 1] + D[prev2][i - 1])); /* (1) */
                    I[here][i] = gap_open[after] * M[prev][i - 1] + gap_extend[after] * I[prev][i - 1]; /* (2) */
                }
                D[here][i] = g * M[prev][i] + x * D[prev][i]; /* (3) */
                if (i == n)
                    total += M[here][i] + I[here][i]; /* (4) */
            }
        }
        BARRIER();
    }
    if ((n - 1) % LOCAL_SIZE == LOCAL_ID)
        sums[pair] = total;
}
