# SPDX-License-Identifier: Apache-2.0
localrules:
    declaration,


# The declaration is an input of each job that opens a person's data; the job itself asks the gate again.
rule declaration:
    output:
        "declarations/{sample}.txt",
    log:
        "logs/{sample}.declaration.log",
    conda:
        "../envs/megabolt.yaml"
    params:
        text=lambda wildcards: plan.declaration(wildcards.sample),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"
