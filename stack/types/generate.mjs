// Writes stack/check/dashboard.schema.json from the types in dashboards.ts. Needed only for another version of Grafana:
//
//     npm ci --prefix stack/types && node stack/types/generate.mjs
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildGenerator, programFromConfig } from "typescript-json-schema";

const here = fileURLToPath(new URL(".", import.meta.url));
const generator = buildGenerator(programFromConfig(`${here}tsconfig.json`), {
  // Types of one name in different modules must not become one.
  uniqueNames: true,
  noExtraProps: true,
  required: true,
  strictNullChecks: true,
  ignoreErrors: true,
});
const symbol = generator.getSymbols("Dashboard").find((one) => /(^|\/)dashboards"\./.test(one.fullyQualifiedName));
const schema = generator.getSchemaForSymbol(symbol.name);

// The generator loses the values of an index signature that passed through a mapped type. The definition's name still has them.
function valuesOf(type) {
  if (type === "any") return true;
  const properties = {};
  for (const field of type.slice(1, -1).split(";").filter(Boolean)) {
    const [, key, value] = /^(\w+)\?:(.*)\|undefined$/.exec(field);
    properties[key] = /^(string|number)$/.test(value) ? { type: value } : { enum: value.split("|").map((one) => JSON.parse(one)) };
  }
  return { type: "object", properties, additionalProperties: false };
}
const names = new Map();
for (const [name, definition] of Object.entries(schema.definitions)) {
  const index = /^\{\[x:string\]:(.*);\}\.[0-9a-f]+$/.exec(name);
  if (index) definition.additionalProperties = valuesOf(index[1]);
  names.set(`#/definitions/${name}`, `d${names.size}`);
}

// Short names, and no descriptions.
function short(node, isNames) {
  if (Array.isArray(node)) return node.map((one) => short(one));
  if (node === null || typeof node !== "object") return node;
  const result = {};
  for (const [key, value] of Object.entries(node)) {
    if (!isNames && ["description", "default", "title"].includes(key)) continue;
    if (!isNames && key === "$ref") result.$ref = `#/definitions/${names.get(decodeURIComponent(value)) ?? names.get(value)}`;
    else result[key] = short(value, !isNames && ["properties", "definitions"].includes(key));
  }
  return result;
}
const { $schema, definitions, ...top } = short(schema);
const versions = JSON.parse(readFileSync(`${here}package.json`, "utf8")).dependencies;
const from = ["@grafana/schema", "@grafana/grafana-foundation-sdk"].map((name) => `${name} ${versions[name]}`).join(" and ");
const written = {
  $schema,
  $comment: `Made by stack/types/generate.mjs from ${from}, which Grafana Labs publishes under Apache-2.0.`,
  ...top,
  definitions: Object.fromEntries(
    Object.entries(definitions).map(([name, definition]) => [names.get(`#/definitions/${name}`), definition]),
  ),
};
const text = JSON.stringify(written, null, 1);
if (text.includes("definitions/undefined")) throw new Error("a reference was lost");
writeFileSync(`${here}../check/dashboard.schema.json`, `${text}\n`);
