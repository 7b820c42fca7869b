# SPDX-License-Identifier: Apache-2.0
localrules:
    report,


rule report:
    input:
        **plan.reports(),
    output:
        html="report.html",
        json="report.json",
    log:
        "logs/report.log",
    conda:
        "../envs/megabolt.yaml"
    shell:
        "megabolt report {input.metrics:q} --comparisons {input.comparisons:q}"
        " --json {output.json:q} -o {output.html:q} > {log:q} 2>&1"
