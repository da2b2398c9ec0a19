// Compiles payment.mjml (MJML 5.4.1, fetched by npx) into the two files that Go embeds:
//   payment.html      an html/template whose conditional comments are replaced by {{mso N}}
//   payment.mso.json  those comments, and the checksum of the source they were made from
// html/template deletes HTML comments, and MJML's comments hold the table frames that Outlook needs.
// Run by `go generate ./notify/email`.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';

const source = readFileSync('payment.mjml');
let html = execFileSync(
  'npx',
  ['--yes', 'mjml@5.4.1', 'payment.mjml', '-s', '--config.beautify', 'false', '--config.minify', 'false', '--config.validationLevel', 'strict'],
  { encoding: 'utf8', maxBuffer: 1 << 24 },
);

// The reading direction is a matter of the reader's language, not of the layout.
html = html
  .replaceAll('direction:ltr', 'direction:{{.Dir}}')
  .replaceAll('text-align:left', 'text-align:{{.Start}}');

const fragments = [];
html = html.replace(/<!--[\s\S]*?-->/g, (comment) => {
  if (!/\[(?:if|endif)/.test(comment)) return '';
  // Templates see no comment, so nothing in one may need filling in.
  comment = comment.replaceAll('direction:{{.Dir}};', '').replaceAll('text-align:{{.Start}};', '');
  if (comment.includes('{{')) throw new Error(`dynamic data in a conditional comment: ${comment}`);
  fragments.push(comment);
  return `{{mso ${fragments.length - 1}}}`;
});
html = html.replaceAll('align="left"', 'align="{{.Start}}"');
html = html.split('\n').map((line) => line.trim()).filter(Boolean).join('\n') + '\n';

writeFileSync('payment.html', html);
writeFileSync(
  'payment.mso.json',
  JSON.stringify({ source_sha256: createHash('sha256').update(source).digest('hex'), fragments }, null, 1) + '\n',
);
