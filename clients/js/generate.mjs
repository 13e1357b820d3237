// node generate.mjs URL DIR: types from a server's OpenAPI document, and the client that is typed by them.
import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const HEAD = "// Made from the OpenAPI document of a Perene server by scripts/js-client; do not edit.\n";
const [url, folder] = process.argv.slice(2);
if (!url || !folder) throw new Error("use: generate.mjs URL DIR");
const to = resolve(folder);

const key = process.env.PERENE_KEY;
const response = await fetch(`${url.replace(/\/+$/, "")}/openapi.json`, {
  headers: key ? { authorization: `Bearer ${key}` } : {},
  signal: AbortSignal.timeout(30_000),
});
if (!response.ok) throw new Error(`${url}/openapi.json answered ${response.status}`);
const types = astToString(await openapiTS(await response.json()));

await mkdir(to, { recursive: true });
await writeFile(join(to, "schema.d.mts"), HEAD + types);
const source = join(to, "client.mts");
await copyFile(join(dirname(fileURLToPath(import.meta.url)), "client.mts"), source);
const program = ts.createProgram([source], {
  strict: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
  types: [],
  declaration: true,
  noEmitOnError: true,
});
const { diagnostics } = program.emit();
const wrong = [...ts.getPreEmitDiagnostics(program), ...diagnostics];
await rm(source);
if (wrong.length) {
  const host = { getCanonicalFileName: (name) => name, getCurrentDirectory: () => to, getNewLine: () => "\n" };
  console.error(ts.formatDiagnostics(wrong, host));
  process.exit(1);
}
console.error(`client.mjs, client.d.mts and schema.d.mts are in ${folder}`);
