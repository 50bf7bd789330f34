"""What `helm lint --strict` and then `helm template NAME CHART` do, by Helm's own library: PyPI helm-python-sdk.

template.py NAME CHART [VALUES]: values as JSON. Manifests on standard output, findings on standard error.
"""

import json
import sys

import helm_python as helm

name, folder = sys.argv[1:3]
values = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
# 1: a recommendation, 2: a warning, 3: an error.
wrong = [one for one in helm.lint(folder, values)["messages"] if one["severity"] > 1]
if wrong:
    sys.exit("\n".join(f"{one['path']}: {one['error']}" for one in wrong))
with helm.Chart.load(folder) as chart:
    chart.validate_schema(values)
    for file, text in sorted(chart.render(values, name=name, namespace="default").items()):
        if not file.endswith(".txt"):
            print(f"---\n# Source: {file}\n{text.rstrip()}")
