# SPDX-License-Identifier: Apache-2.0
rule germline:
    input:
        declaration=ancient("declarations/{sample}.txt"),
        reference=str(plan.reference),
        index=ancient(str(plan.index)),
        fastq=lambda wildcards: plan.fastq(wildcards.sample),
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
        "megabolt germline --reference {input.reference:q} {params.options}"
        " --sample {wildcards.sample:q} --outdir {wildcards.sample:q}"
        " --threads {threads} --memory {resources.mem_mb}M"
        ' --open-data "$(cat {input.declaration:q})"'
        " > {log:q} 2>&1"
