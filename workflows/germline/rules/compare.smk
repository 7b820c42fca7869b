# SPDX-License-Identifier: Apache-2.0
# Only for samples whose configuration names a truth.
rule compare:
    input:
        declaration=ancient("declarations/{sample}.txt"),
        reference=str(plan.reference),
        calls="{sample}/{sample}.vcf.gz",
        truth=lambda wildcards: str(plan.truth[wildcards.sample].vcf),
        regions=lambda wildcards: str(plan.truth[wildcards.sample].regions or "") or [],
    output:
        "{sample}/{sample}.compare.json",
    log:
        "logs/{sample}.compare.log",
    conda:
        "../envs/megabolt.yaml"
    params:
        options=lambda wildcards: plan.compare_options(wildcards.sample),
    shell:
        "megabolt compare {input.truth:q} {input.calls:q} --reference {input.reference:q} {params.options}"
        ' --open-data "$(cat {input.declaration:q})"'
        " --json {output:q} > {log:q} 2>&1"
