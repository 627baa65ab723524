"""Validates a compose file against the schema of the compose specification. Arguments: the file, the schema."""

import json
import sys

import jsonschema
import yaml

with open(sys.argv[1]) as file, open(sys.argv[2]) as schema:
    problems = jsonschema.Draft201909Validator(json.load(schema)).iter_errors(yaml.safe_load(file))
    found = [f"{'/'.join(map(str, problem.absolute_path))}: {problem.message}" for problem in problems]
print("\n".join(found))
sys.exit(bool(found))
