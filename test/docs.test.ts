import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';
import { loadConfig } from '../src/config.ts';
import { UserError } from '../src/system/errors.ts';
import { commandLine } from './support/command-line.ts';

// README and docs show only commands, options, settings, files and links that exist. No command is run but --help.

const ROOT = join(import.meta.dirname, '..');
const PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'findings/README.md',
  ...readdirSync(join(ROOT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
];

interface Found {
  page: string;
  line: number;
  text: string;
}

/** Lines of fenced code, a line that ends with a backslash joined with the next one. */
function codeLines(page: string): Found[] {
  const found: Found[] = [];
  let fenced = false;
  let continued: Found | undefined;
  readFileSync(join(ROOT, page), 'utf8')
    .split('\n')
    .forEach((text, i) => {
      if (/^\s*```/.test(text)) fenced = !fenced;
      else if (fenced) {
        const code = continued ?? { page, line: i + 1, text: '' };
        if (!continued) found.push(code);
        const more = text.endsWith('\\');
        code.text = `${code.text} ${text.replace(/\\$/, '')}`.trim();
        continued = more ? code : undefined;
      }
    });
  return found;
}

/** Inline code outside of fenced code. It may continue on the next line of its paragraph. */
function inlineCode(page: string): Found[] {
  const text = readFileSync(join(ROOT, page), 'utf8').replace(/^```[\s\S]*?^```/gm, (code) =>
    code.replace(/[^\n]/g, ' '),
  );
  return [...text.matchAll(/`([^`]+)`/g)].map(({ index, 1: code }) => ({
    page,
    line: text.slice(0, index).split('\n').length,
    text: code.replace(/\s+/g, ' '),
  }));
}

/** The words of a shell command without their quotes; # starts a comment. */
function words(command: string): string[] {
  const found: string[] = [];
  for (const [word] of command.matchAll(/(?:"[^"]*"|'[^']*'|[^\s"'])+/g)) {
    if (word.startsWith('#')) break;
    found.push(word.replace(/["']/g, ''));
  }
  return found;
}

/** Command lines of realm in a line of shell, each as its words after `realm`. */
function realmCommands(line: string): string[][] {
  return line.split(/\s*(?:&&|;|\|)\s+/).flatMap((part) => {
    const all = words(part);
    if (all[0] === '$') all.shift();
    while (/^[A-Z_]+=/.test(all[0] ?? '')) all.shift(); // variables
    if (all[0] === 'npm' && all[1] === 'run' && all[2] === 'demo') return [['demo', ...all.slice(4)]];
    const at = all.findIndex((word) => word === 'realm' || word === 'bin/realm' || word === 'realm-lm');
    const before = all.slice(0, at);
    const starts = ['', 'npx', 'node', 'npx --package ./realm-lm-0.1.0.tgz'];
    const inDocker = before[0] === 'docker' && before[1] === 'run';
    return at < 0 || !(inDocker || starts.includes(before.join(' '))) ? [] : [all.slice(at + 1)];
  });
}

const shown = PAGES.flatMap((page) =>
  [
    ...codeLines(page),
    ...inlineCode(page).filter(({ text }) => /^(npx |node bin\/)?realm [a-z-]/.test(text)),
  ].flatMap((code) => realmCommands(code.text).map((args) => ({ ...code, args }))),
);
const where = ({ page, line, text }: Found) => `${page}:${line}: ${text}`;

const realm = commandLine();
const helps = new Map<string, Promise<string>>();
/** The help of a command; of an unknown one it is that of the command above it. */
function helpOf(command: readonly string[]): Promise<string> {
  const key = command.join(' ');
  let help = helps.get(key);
  if (!help) {
    help = realm(...command, '--help').then(({ out, err }) => out || err);
    helps.set(key, help);
  }
  return help;
}

/** Names of the commands below one, as its help lists them. */
function subcommands(help: string): string[] {
  if (!/^Usage: .*\[command\]/m.test(help)) return [];
  return [...help.split(/^Examples:/m)[0].matchAll(/^ {2}([a-z][a-z0-9-]*)\b/gm)].map(([, name]) => name);
}

/** `undefined`, or what is wrong with a command line. */
async function wrongCommand(args: readonly string[]): Promise<string | undefined> {
  const command: string[] = [];
  for (;;) {
    const below = subcommands(await helpOf(command));
    const next = args[command.length];
    if (below.length === 0 || next === undefined || next.startsWith('-')) break;
    if (!below.includes(next)) return `there is no "realm ${[...command, next].join(' ')}"`;
    command.push(next);
  }
  const help = await helpOf(command);
  for (const [i, word] of args.entries()) {
    const [option, given] = /^(?:--[a-z][a-z-]*|-[a-zA-Z])(?==|$)/.test(word) ? word.split('=') : [undefined];
    if (option === undefined) continue;
    // Its part of the help, up to the next option.
    const part = new RegExp(`^ *(?:-\\w, )?${option}(?![\\w-])[^]*?(?=^ *-|^\\S|$(?![^]))`, 'm').exec(
      help,
    )?.[0];
    if (part === undefined) return `realm ${command.join(' ')} has no option ${option}`;
    // (choices: a, b; default: a)
    const choices = /\(choices: ([^);]*)/
      .exec(part.replace(/\s+/g, ' '))?.[1]
      .replaceAll('"', '')
      .split(', ');
    const value = given ?? args[i + 1];
    if (choices !== undefined && !choices.includes(value))
      return `${option} ${value}: the choices are ${choices.join(', ')}`;
  }
  return undefined;
}

test('the pages show commands', () => {
  assert.ok(shown.length > 50, `${shown.length} commands were found`);
  assert.deepEqual(realmCommands('REALM_TOKEN="$(cat x)" realm serve --port 0  # any port'), [
    ['serve', '--port', '0'],
  ]);
  assert.deepEqual(realmCommands('npm ci && npm run demo -- --seed 2'), [['demo', '--seed', '2']]);
});

test('commands and options in README and docs exist', async () => {
  const wrong = [];
  for (const code of shown) {
    const problem = await wrongCommand(code.args);
    if (problem !== undefined) wrong.push(`${where(code)}: ${problem}`);
  }
  assert.deepEqual(wrong, []);
});

test('a command, a subcommand and an option that do not exist are found', async () => {
  assert.match((await wrongCommand(['brew']))!, /no "realm brew"/);
  assert.match((await wrongCommand(['eval', 'taste']))!, /no "realm eval taste"/);
  assert.match((await wrongCommand(['ask', '--sugar', 'why?']))!, /realm ask has no option --sugar/);
  assert.match((await wrongCommand(['eval', 'recall', '--stage', 'none']))!, /--stage none: the choices are/);
  assert.match((await wrongCommand(['ask', '--engine=steam']))!, /--engine steam: the choices are auto/);
  assert.equal(await wrongCommand(['eval', 'recall', '--stage', 'pretrain', '--set', 'seed=2']), undefined);
});

/** `undefined`, or what is wrong with `path.to.setting=value`. */
function wrongSetting(setting: string): string | undefined {
  try {
    loadConfig(undefined, [setting]);
    return undefined;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return error.message;
  }
}

/** Settings after --set, but for the placeholder of its form. */
const sets = PAGES.flatMap((page) =>
  [...codeLines(page), ...inlineCode(page)].flatMap((code) =>
    [...code.text.matchAll(/--set[ =](?:"([^"]+)"|'([^']+)'|(\S+))/g)]
      .map(([, double, single, plain]) => ({ ...code, setting: double ?? single ?? plain }))
      .filter(
        ({ setting }) => setting.includes('=') && !/^(path(\.to\.key)?=value|NAME=VALUE)/.test(setting),
      ),
  ),
);

test('settings after --set in README and docs exist and have such values', () => {
  assert.ok(sets.length > 10, `${sets.length} settings were found`);
  const wrong = sets
    .map((code) => [where(code), wrongSetting(code.setting)])
    .filter(([, problem]) => problem !== undefined);
  assert.deepEqual(wrong, []);
  assert.match(wrongSetting('data.document=x')!, /unknown setting/);
  assert.match(wrongSetting('pretrain.steps=many')!, /pretrain\.steps/);
});

/** Whether a name such as `qa.readerBlocks`, `refresh` or `pretrain.optimizer` is one in the settings. */
function isSetting(name: string): boolean {
  let node: unknown = loadConfig(undefined, []);
  for (const key of name.split('.')) {
    if (typeof node !== 'object' || node === null || !Object.hasOwn(node, key)) return false;
    node = (node as Record<string, unknown>)[key];
  }
  return true;
}

test('settings named in the text of README and docs exist', () => {
  const sections = Object.entries(loadConfig(undefined, []))
    .filter(([, value]) => typeof value === 'object' && value !== null)
    .map(([name]) => name);
  const name = new RegExp(`^((?:${sections.join('|')})(?:\\.[a-z][A-Za-z0-9]*)+)(?:[:=] ?\\S.*)?$`);
  const files = /\.(json|jsonl|ts|md|yaml|html|bin|txt|safetensors|onnx|onnx\.data|usearch)$/;
  const named = PAGES.flatMap(inlineCode).flatMap((code) => {
    const setting = name.exec(code.text)?.[1];
    return setting === undefined || files.test(setting) ? [] : [{ ...code, setting }];
  });
  assert.ok(named.length > 50, `${named.length} settings were found`);
  assert.deepEqual(named.filter(({ setting }) => !isSetting(setting)).map(where), []);
  assert.equal(isSetting('index.kinds'), false);
});

/** The address of a heading as GitHub makes it. */
function anchor(heading: string): string {
  return heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, '')
    .replaceAll(' ', '-');
}

function anchors(page: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8').replace(/^```[\s\S]*?^```/gm, '');
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchor(heading));
}

/** `undefined`, or what is wrong with a link. */
function wrongLink(page: string, target: string): string | undefined {
  if (/^[a-z]+:/.test(target)) return undefined;
  const [path, heading] = target.split('#');
  const file = path === '' ? page : normalize(join(dirname(page), path));
  if (!existsSync(join(ROOT, file))) return `there is no ${file}`;
  if (heading !== undefined && !anchors(file).includes(heading)) return `${file} has no heading #${heading}`;
  return undefined;
}

test('relative links in README and docs lead to files and headings that exist', () => {
  const wrong = [];
  let links = 0;
  for (const page of [...PAGES, 'CHANGELOG.md']) {
    const text = readFileSync(join(ROOT, page), 'utf8').replace(/^```[\s\S]*?^```|`[^`]*`/gm, '');
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      links++;
      const problem = wrongLink(page, target);
      if (problem !== undefined) wrong.push(`${page}: ${target}: ${problem}`);
    }
  }
  assert.ok(links > 50, `${links} links were found`);
  assert.deepEqual(wrong, []);
  assert.match(wrongLink('README.md', 'docs/none.md')!, /no docs\/none\.md/);
  assert.match(wrongLink('README.md', 'docs/glossary.md#none')!, /no heading/);
});

test('files of the repository that README and docs name exist', () => {
  const path = /^(?:src|test|scripts|docs|configs|assets|bench|bin|findings)\/[\w./-]*$/;
  // Two are DrQA's, and one is made by npm run docs:api.
  const elsewhere = ['scripts/pipeline/eval.py', 'scripts/retriever/eval.py', 'docs/api/'];
  const named = PAGES.flatMap(inlineCode).filter(
    ({ text }) => path.test(text) && !/NAME/.test(text) && !elsewhere.includes(text),
  );
  assert.ok(named.length > 50, `${named.length} paths were found`);
  assert.deepEqual(named.filter(({ text }) => !existsSync(join(ROOT, text))).map(where), []);
});

test('npm scripts that README and docs name exist', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  const named = PAGES.flatMap((page) => [...codeLines(page), ...inlineCode(page)]).flatMap((code) =>
    [...code.text.matchAll(/\bnpm run ([\w:-]+)/g)].map(([, script]) => ({ ...code, script })),
  );
  assert.ok(named.length > 5, `${named.length} scripts were found`);
  assert.deepEqual(named.filter(({ script }) => !Object.hasOwn(scripts, script)).map(where), []);
});

test('messages that the page on troubleshooting quotes are in the source', () => {
  const source = ['src', 'scripts']
    .flatMap((folder) =>
      (readdirSync(join(ROOT, folder), { recursive: true }) as string[]).map((name) =>
        join(ROOT, folder, name),
      ),
    )
    .filter((file) => /\.(ts|mjs)$/.test(file))
    .map((file) => readFileSync(file, 'utf8'))
    .join('\n');
  const ofOthers = [
    'npx realm',
    'could not determine executable to run',
    'EBADENGINE … usearch',
    'EACCES … .cache/realm',
  ];
  const rows = readFileSync(join(ROOT, 'docs/troubleshooting.md'), 'utf8').matchAll(/^\| (.*?) \|/gm);
  const quoted = [...rows]
    .flatMap(([, cell]) => [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code))
    .filter((code) => code.includes(' ') && !/^(npx )?realm [a-z]/.test(code) && !ofOthers.includes(code));
  assert.ok(quoted.length > 10, `${quoted.length} messages were found`);
  assert.deepEqual(
    quoted.flatMap((code) => code.split(/\s*…,?\s*/)).filter((part) => !source.includes(part)),
    [],
  );
});
