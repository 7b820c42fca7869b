# SPDX-License-Identifier: Apache-2.0
rule index:
    input:
        str(plan.reference),
    output:
        str(plan.index),
    log:
        "logs/index.log",
    benchmark:
        "benchmarks/index.tsv"
    conda:
        "../envs/megabolt.yaml"
    threads: plan.threads
    resources:
        mem_mb=plan.memory_mb,
    shell:
        "megabolt index {input:q} --threads {threads} > {log:q} 2>&1"
