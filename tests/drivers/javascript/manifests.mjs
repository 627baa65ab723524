// Validates objects that are not Kubernetes' own, a JSON list on standard input, against the schemas of those whose they are, with nothing unknown allowed.
// The argument is the directory with the modules: NODE_PATH does not hold for them.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const OWNERS = {
  "monitoring.coreos.com": "prometheus-operator",
  "cert-manager.io": "cert-manager",
  "keda.sh": "keda",
};

const problems = [];

// What a validator never looks at is what its schema does not know.
function watched(value, path, unseen) {
  if (value === null || typeof value !== "object") return value;
  const inner = {};
  for (const key of Object.keys(value)) {
    const place = `${path}.${key}`;
    if (!Array.isArray(value)) unseen.add(place);
    inner[key] = watched(value[key], place, unseen);
  }
  return new Proxy(value, {
    get(target, key) {
      unseen.delete(`${path}.${String(key)}`);
      return Object.hasOwn(inner, key) ? inner[key] : target[key];
    },
    // Whoever asks for all keys (a map of labels) takes any of them.
    ownKeys(target) {
      for (const key of Object.keys(target)) unseen.delete(`${path}.${key}`);
      return Reflect.ownKeys(target);
    },
  });
}

for (const thing of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${thing.kind}/${thing.metadata?.name} (${thing.apiVersion})`;
  const owner = OWNERS[thing.apiVersion.split("/")[0]];
  if (!owner) {
    problems.push(`${name}: nobody's`);
    continue;
  }
  try {
    const place = resolve(process.argv[2], "node_modules/@kubernetes-models", owner, thing.apiVersion, `${thing.kind}.js`);
    const model = (await import(pathToFileURL(place)))[thing.kind];
    const unseen = new Set();
    const copy = new model(structuredClone(thing));
    Object.assign(copy, { metadata: thing.metadata, spec: watched(thing.spec, "spec", unseen) });
    copy.validate();
    for (const path of unseen) problems.push(`${name}: ${path} is not known`);
  } catch (problem) {
    problems.push(`${name}: ${problem.message}`);
  }
}
console.log(problems.join("\n"));
process.exit(problems.length > 0 ? 1 : 0);
