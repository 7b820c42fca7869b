/* SPDX-License-Identifier: Apache-2.0
 * Banded affine-gap alignment with CIGAR. Contract and equations: megabolt/compute/banded_affine/__init__.py.
 *
 * One group computes one job. Rows are query bases i = 1..n; a row's cells are k = 0..2 * band, and cell (i, k) sees
 * target base j = i + k + shift, shift = diagonal - band. In these coordinates (i-1, j-1) is (i-1, k), (i-1, j) is
 * (i-1, k+1) and (i, j-1) is (i, k-1), so the cells of wave w = 2 i + k depend only on waves w - 1 and w - 2.
 * Even and odd k take turns, which is why one row of each matrix is enough. H of every cell also goes to global
 * memory, where one item walks back. Base codes A C G T N = 0 1 2 3 4 (megabolt/formats/bases.py).
 */
#define MAX_CELLS 258 /* 2 * 128 + 1, and one that stays forbidden */
#define MAX_ITEMS 256
#define MAX_CIGAR 64
#define N_CODE 4
#define FORBIDDEN (-16384) /* below every real score, see numba_cpu.py */
#define IS_M 0
#define IS_I 1
#define IS_D 2

DEVICE int larger(int x, int y) { return x > y ? x : y; }

/* s of query base i and target base j, both from 1 */
DEVICE int pair_score(GLOBAL const u8 *query, GLOBAL const u8 *target, int i, int j, int match, int mismatch)
{
    return query[i - 1] == target[j - 1] && query[i - 1] < N_CODE ? match : -mismatch;
}

/* Walk back from cell (i, k), whose M is `total`; results are written only if the score is positive. */
DEVICE void walk_back(GLOBAL const u8 *query, GLOBAL const u8 *target, int shift, int band, int i, int k, int total,
                      int match, int mismatch, int gap_open, int gap_extend, int clip, GLOBAL const short *H,
                      int width, int n_jobs, int job, GLOBAL int *ends, GLOBAL u32 *cigar)
{
    const int query_stop = i, target_stop = i + k + shift;
    int n_runs = 0, operation = IS_M, run = 1;
    while ((i == 1 ? 0 : -clip) < H[(i - 1) * width + k]) { /* cell (i, k) is an aligned pair; at most 512 rows */
        i--;
        int step = IS_D;
        while (step != IS_M) { /* what made H of cell (i, k)? */
            const int h = H[i * width + k];
            const int start = i == 1 ? 0 : -clip;
            const int s = pair_score(query, target, i, i + k + shift, match, mismatch);
            int length = 1;
            if (h == s + larger(start, H[(i - 1) * width + k])) {
                step = IS_M;
            } else { /* a deletion before an insertion, the shortest first */
                step = IS_D;
                while (length <= k && H[i * width + k - length] - gap_open - length * gap_extend != h)
                    length++;
                if (length > k) {
                    step = IS_I;
                    length = 1;
                    while (length < i && H[(i - length) * width + k + length] - gap_open - length * gap_extend != h)
                        length++;
                }
            }
            if (step == operation) {
                run += length;
            } else {
                if (n_runs < MAX_CIGAR)
                    cigar[MAX_CIGAR - 1 - n_runs] = (u32)(run << 4 | operation);
                n_runs++;
                operation = step;
                run = length;
            }
            if (step == IS_D) {
                k -= length;
            } else if (step == IS_I) {
                i -= length;
                k += length;
            }
        }
    }
    const int score = total - (i == 1 ? 0 : -clip);
    if (n_runs < MAX_CIGAR)
        cigar[MAX_CIGAR - 1 - n_runs] = (u32)(run << 4 | operation);
    n_runs++;
    const int kept = score > 0 && n_runs <= MAX_CIGAR ? n_runs : 0; /* operations, at the right end of the row */
    for (int c = 0; c < MAX_CIGAR; c++)
        cigar[c] = c < kept ? cigar[MAX_CIGAR - kept + c] : 0;
    if (score > 0) {
        ends[job] = score;
        ends[n_jobs + job] = i - 1;
        ends[2 * n_jobs + job] = query_stop;
        ends[3 * n_jobs + job] = i - 1 + k + shift;
        ends[4 * n_jobs + job] = target_stop;
        ends[5 * n_jobs + job] = n_runs <= MAX_CIGAR ? n_runs : -1;
    }
}

KERNEL banded_affine(GLOBAL const u8 *RESTRICT queries, GLOBAL const i64 *RESTRICT query_offsets,
                     GLOBAL const u8 *RESTRICT targets, GLOBAL const i64 *RESTRICT target_offsets,
                     GLOBAL const int *RESTRICT diagonal, int band, int match, int mismatch, int gap_open,
                     int gap_extend, int clip, int first_job, int n_jobs, int max_rows,
                     GLOBAL short *H_all,    /* [groups, max_rows + 1, 2 * band + 2] */
                     GLOBAL int *ends,       /* [6, n_jobs], zeroed */
                     GLOBAL u32 *cigars)     /* [n_jobs, MAX_CIGAR], zeroed */
{
    LOCAL int H_row[MAX_CELLS]; /* [k] <- the newest H(., k); E and F alike */
    LOCAL int E_row[MAX_CELLS];
    LOCAL int F_row[MAX_CELLS];
    LOCAL int item_best[MAX_ITEMS]; /* of each item's own cells: M - stop, row and cell of the best end */
    LOCAL int item_row[MAX_ITEMS];
    LOCAL int item_cell[MAX_ITEMS];
    const int job = first_job + GROUP_ID;
    const int width = 2 * band + 2, n_cells = 2 * band + 1, shift = diagonal[job] - band;
    const int n = (int)(query_offsets[job + 1] - query_offsets[job]);
    const int m = (int)(target_offsets[job + 1] - target_offsets[job]);
    GLOBAL const u8 *query = queries + query_offsets[job];
    GLOBAL const u8 *target = targets + target_offsets[job];
    GLOBAL short *H = H_all + (i64)GROUP_ID * (max_rows + 1) * width;
    int best = FORBIDDEN, best_row = 0, best_cell = 0;

    for (int k = LOCAL_ID; k < width; k += LOCAL_SIZE) { /* row 0, and the cell right of the band */
        H_row[k] = FORBIDDEN;
        E_row[k] = FORBIDDEN;
        F_row[k] = FORBIDDEN;
        H[k] = FORBIDDEN;
    }
    BARRIER();
    for (int w = 2; w <= 2 * n + n_cells; w++) { /* at most 1,280 waves */
        for (int k = (w & 1) + 2 * LOCAL_ID; k < n_cells; k += 2 * LOCAL_SIZE) {
            const int i = (w - k) / 2, j = i + k + shift;
            if (w - k >= 2 && i <= n) {
                int h = FORBIDDEN, e = FORBIDDEN, f = FORBIDDEN;
                if (j >= 1 && j <= m) {
                    const int start = i == 1 ? 0 : -clip;
                    const int M = pair_score(query, target, i, j, match, mismatch) + larger(start, H_row[k]); /* (1) */
                    if (k > 0)
                        e = larger(H_row[k - 1] - gap_open, E_row[k - 1]) - gap_extend; /* (2) */
                    f = larger(H_row[k + 1] - gap_open, F_row[k + 1]) - gap_extend;     /* (3) */
                    h = larger(M, larger(e, f));                                       /* (4) */
                    const int end = i == n ? M : M - clip;                             /* (5) */
                    if (end > best || (end == best && (i < best_row || (i == best_row && k < best_cell)))) {
                        best = end;
                        best_row = i;
                        best_cell = k;
                    }
                }
                H_row[k] = h;
                E_row[k] = e;
                F_row[k] = f;
                H[i * width + k] = (short)h;
            }
        }
        BARRIER();
    }
    item_best[LOCAL_ID] = best;
    item_row[LOCAL_ID] = best_row;
    item_cell[LOCAL_ID] = best_cell;
    BARRIER();
    if (LOCAL_ID == 0) {
        for (int item = 1; item < LOCAL_SIZE; item++) {
            const int end = item_best[item], row = item_row[item], k = item_cell[item];
            if (end > best || (end == best && (row < best_row || (row == best_row && k < best_cell)))) {
                best = end;
                best_row = row;
                best_cell = k;
            }
        }
        if (best > FORBIDDEN / 2) /* else the band misses the target */
            walk_back(query, target, shift, band, best_row, best_cell, best_row == n ? best : best + clip, match,
                      mismatch, gap_open, gap_extend, clip, H, width, n_jobs, job, ends, cigars + (i64)job * MAX_CIGAR);
    }
}
