# SPDX-License-Identifier: Apache-2.0
rule germline:
    input:
        declaration=ancient("declarations/{sample}.txt"),
        reference=str(plan.reference),
        index=ancient(str(plan.index)),
        fastq_1=lambda wildcards: plan.fastq(wildcards.sample, 1),
        fastq_2=lambda wildcards: plan.fastq(wildcards.sample, 2),
        targets=str(plan.targets) if plan.targets else [],
    output:
        **plan.outputs(),
    log:
        "logs/{sample}.log",
    benchmark:
        "benchmarks/{sample}.tsv"
    conda:
        "../envs/megabolt.yaml"
    threads: plan.threads
    resources:
        mem_mb=plan.memory_mb,
    params:
        options=lambda wildcards: plan.options(wildcards.sample),
    shell:
        "megabolt germline --reference {input.reference:q}"
        " -1 {input.fastq_1:q} -2 {input.fastq_2:q}"
        " --sample {wildcards.sample:q} --outdir {wildcards.sample:q}"
        " --threads {threads} --memory {resources.mem_mb}M"
        ' --open-data "$(cat {input.declaration:q})"'
        " {params.options} > {log:q} 2>&1"
