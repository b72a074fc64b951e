"""The page at ``/docs``: shows ``/openapi.json`` with nothing from any other address, so it works offline."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>aigw API</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
details { border: 1px solid #d0d0d0; border-radius: 6px; margin: .5rem 0; padding: .5rem 1rem; }
summary { cursor: pointer; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: #f5f5f5; padding: .75rem; overflow: auto; border-radius: 6px; }
.method { display: inline-block; min-width: 4rem; font-weight: 700; }
td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; }
</style>
</head>
<body>
<h1>aigw</h1>
<p id="about">Loading <a href="/openapi.json">the description</a>…</p>
<main id="routes"></main>
<script>
const element = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const table = (rows) => {
  const node = element("table");
  for (const [name, text] of rows) {
    const row = element("tr");
    row.append(element("th", name), element("td", text));
    node.append(row);
  }
  return node;
};
const operation = (description, path, method, facts) => {
  const found = (part) =>
    part.$ref ? part.$ref.split("/").slice(1).reduce((place, key) => place[key], description) : part;
  const node = element("details");
  const summary = element("summary");
  summary.append(element("span", method.toUpperCase(), "method"), element("code", path), " ", facts.summary || "");
  node.append(summary);
  if (facts.description) node.append(element("p", facts.description));
  if (facts.parameters) {
    node.append(element("h4", "Parameters"));
    node.append(table(facts.parameters.map((one) => [`${one.name} (${one.in})`, one.description || ""])));
  }
  const body = facts.requestBody?.content?.["application/json"]?.schema;
  if (body) node.append(element("h4", "Body"), element("pre", JSON.stringify(body, null, 2)));
  node.append(element("h4", "Answers"));
  const answers = Object.entries(facts.responses).map(([status, answer]) => [status, found(answer)]);
  node.append(table(answers.map(([status, answer]) => [status, answer.description])));
  const headers = answers.flatMap(([, answer]) => Object.entries(answer.headers || {}));
  node.append(element("h4", "Headers of answers"));
  node.append(table(Object.entries(Object.fromEntries(headers)).map(([name, facts]) => [name, facts.description])));
  return node;
};
fetch("/openapi.json").then((answer) => answer.json()).then((description) => {
  document.getElementById("about").textContent = `${description.info.title} ${description.info.version}`;
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, facts] of Object.entries(methods)) {
      document.getElementById("routes").append(operation(description, path, method, facts));
    }
  }
});
</script>
</body>
</html>
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
"""The page's Content-Security-Policy: the browser itself sees to it that nothing comes from elsewhere."""
