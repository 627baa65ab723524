"""Validates Kubernetes objects, a JSON list on standard input, against the schemas of the versions that are named, with nothing unknown allowed."""

import json
import sys

import kubernetes_validate

problems = []
for index, thing in enumerate(json.load(sys.stdin)):
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as problem:
            kind, name = thing.get("kind"), thing.get("metadata", {}).get("name")
            problems.append(f"{index} {kind}/{name} in {version}: {getattr(problem, 'message', problem)}")
print("\n".join(problems))
sys.exit(bool(problems))
