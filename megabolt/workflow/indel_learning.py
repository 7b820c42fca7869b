# SPDX-License-Identifier: Apache-2.0
"""How a sample's reads slip in repeats, learnt before it is called.

In: records of stretches of the genome, from filled bins or an indexed file. Out: `CallOptions` that know it.

Stretches are taken from all over the genome, whatever is to be called, until they have enough reads: so neither
targets, regions, memory nor threads change a call, and a sample is called alike from its bins and from its BAM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace

from megabolt.call.engine import CallOptions
from megabolt.call.indel_errors import TractCounts, count_tracts, learn_open_table
from megabolt.formats.bam_records import RecordBlock
from megabolt.formats.fasta import Reference
from megabolt.reads.bins import BIN_BASES, BinStore
from megabolt.workflow.call_job import Chunk, chunks_of
from megabolt.workflow.ordered import in_order, worker_pool

#: Records of a chunk at least, in blocks in any order, each valid until the next is asked for. Safe for threads.
RecordSource = Callable[[Chunk], Iterable[RecordBlock]]

#: Reads that are enough: some ten megabases of a genome at 30x. With half of them rates of rare repeats still scatter.
ENOUGH_READS = 2_000_000
#: Multiples of it, modulo 2^32, spread the order of the chunks evenly (the golden ratio; Knuth, TAOCP 6.4).
_SPREAD = 2654435769


def records_of_bins(store: BinStore) -> RecordSource:
    """Records of filled bins, which keep them."""
    first = store.layout.first_bin
    return lambda chunk: store.records_of(int(first[chunk.contig]) + chunk.start // BIN_BASES)


def learn_indel_errors(options: CallOptions, genome: Reference, records: RecordSource, *, threads: int) -> CallOptions:
    """The options, with the gap-open table of the sample's reads.

    Mixtures (`CallOptions.mixture`) are not looked at: of a mixture's tracts nobody knows the alleles.
    """
    contigs = [(k, one) for k, one in enumerate(genome.contigs) if k not in options.mixture]
    chunks = [chunk for k, contig in contigs for chunk in chunks_of(k, 0, contig.length)]
    order = sorted(range(len(chunks)), key=lambda i: i * _SPREAD % 2**32)

    def count(i: int) -> TractCounts:
        chunk = chunks[i]
        return count_tracts(records(chunk), genome, chunk.contig, chunk.start, chunk.stop)

    found: list[TractCounts] = []
    n_reads = 0
    with worker_pool(threads) as pool, closing(in_order(pool, count, order, threads)) as counted:
        for one in counted:
            found.append(one)
            n_reads += one.n_reads
            if n_reads >= ENOUGH_READS:
                break
    return replace(options, open_by_tract=learn_open_table(found))
