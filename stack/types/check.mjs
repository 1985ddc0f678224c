// Writes each dashboard as a literal of its type, which must not have a key that the type does not, and asks the compiler.
// Then it is held that the compiler does refuse what is misspelt.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const dashboards = fileURLToPath(new URL("../grafana/dashboards/", import.meta.url));
const generated = `${here}generated/`;

function compile(literals) {
  rmSync(generated, { recursive: true, force: true });
  mkdirSync(generated);
  for (const [name, json] of literals) {
    writeFileSync(
      `${generated}${name}.ts`,
      `import type { Dashboard } from "../dashboards.js";\nexport const dashboard: Dashboard = ${json.trim()};\n`,
    );
  }
  try {
    execFileSync(process.execPath, [`${here}node_modules/typescript/bin/tsc`, "--project", here], { encoding: "utf8" });
    return "";
  } catch (error) {
    return error.stdout || String(error);
  }
}

const files = readdirSync(dashboards).filter((file) => file.endsWith(".json"));
const texts = files.map((file) => [file.replace(".json", ""), readFileSync(dashboards + file, "utf8")]);
const wrong = compile(texts);
if (wrong || files.length === 0) {
  console.error(wrong || "there are no dashboards");
  process.exit(1);
}

// One misspelling each, in every place that has a type of its own.
const misspellings = [
  ['"graphTooltip": 1', '"graphTooltips": 1'],
  ['"graphTooltip": 1', '"graphTooltip": 7'],
  ['"legendFormat"', '"legendFormats"'],
  ['"format": "heatmap"', '"format": "heat_map"'],
  ['"reduceOptions"', '"reducerOptions"'],
  ['"colorMode": "value"', '"colorMode": "values"'],
  ['"displayMode": "list"', '"displayMode": "lists"'],
  ['"fillOpacity": 5', '"fillOpacities": 5'],
  ['"showHeader"', '"showHeaders"'],
  ['"cellGap"', '"cellGaps"'],
  ['"includeAll"', '"includeAlls"'],
  ['"iconColor"', '"iconColour"'],
  ['"type": "stat"', '"type": "stats"'],
];
const [, text] = texts.find(([name]) => name === "overview");
const misspelt = misspellings.map(([right, wrong], i) => [`misspelt${i}`, text.replace(right, wrong)]);
const said = compile(misspelt);
const accepted = misspellings
  .filter(([right], i) => !text.includes(right) || !said.includes(`generated/misspelt${i}.ts(`))
  .map(([right, wrong]) => `${right} -> ${wrong}`);
rmSync(generated, { recursive: true, force: true });
if (accepted.length > 0) {
  console.error(`the types do not refuse:\n${accepted.join("\n")}`);
  process.exit(1);
}
console.log(`${files.length} dashboards have Grafana's types; ${misspellings.length} misspellings are refused`);
