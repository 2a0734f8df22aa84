import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { test } from 'node:test';
import { commandsOf, fullName, realm } from '../../src/cli.ts';

// The help of each command is in test/commands/help. After a change that is meant, write the files again with
//   REALM_UPDATE_HELP=1 node scripts/test.mjs test/commands/help.test.ts
// and read the difference before you commit it.

const FOLDER = join(import.meta.dirname, 'help');

/** The help of every command by the name of its file; commands that only refuse an earlier name have none. */
function helpTexts(): Map<string, string> {
  const program = realm(() => {});
  const texts = new Map<string, string>();
  for (const command of commandsOf(program).filter((one) => !(one as { _hidden?: boolean })._hidden)) {
    let text = '';
    command.configureOutput({ writeOut: (part) => (text += part), getOutHelpWidth: () => 80 });
    command.outputHelp();
    texts.set(`${fullName(command).replaceAll(' ', '-')}.txt`, text);
  }
  return texts;
}

test('the help of every command is the text in test/commands/help', () => {
  const texts = helpTexts();
  if (process.env.REALM_UPDATE_HELP) {
    for (const [name, text] of texts) writeFileSync(join(FOLDER, name), text);
  }
  assert.deepEqual(readdirSync(FOLDER).sort(), [...texts.keys()].sort());
  for (const [name, text] of texts) assert.equal(text, readFileSync(join(FOLDER, name), 'utf8'), name);
});

test('every help has an example, and no line is wider than a terminal', () => {
  for (const [name, text] of helpTexts()) {
    assert.match(text, /\nExamples:\n {2}realm /, name);
    const [options] = text.split('\nExamples:');
    for (const line of options.split('\n')) assert.ok(line.length <= 80, `${name}: ${line}`);
    assert.doesNotMatch(text, /default: (\[\]|false)/, name);
  }
});

test('every example is a command line that the program accepts', async () => {
  for (const [name, text] of helpTexts()) {
    const lines = text.split('\nExamples:\n')[1].split('\n\n')[0].trimEnd().split('\n');
    for (const line of lines) {
      const words = [...line.replace(/ [<>] .*/, '').matchAll(/"([^"]*)"|(\S+)/g)].map((m) => m[1] ?? m[2]);
      assert.equal(words.shift(), 'realm', name);
      const program = realm(() => {});
      for (const command of commandsOf(program)) {
        command.exitOverride().configureOutput({ writeOut: () => {}, writeErr: () => {} });
        command.action(() => {});
      }
      if (words.includes('--help')) continue;
      await assert.doesNotReject(program.parseAsync(words, { from: 'user' }), `${name}: ${line}`);
    }
  }
});

test('help loads commander and the command files, and neither TensorFlow nor the settings', () => {
  const src = join(import.meta.dirname, '../../src');
  const seen = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string) => {
    if (seen.has(file)) return;
    seen.add(file);
    // Types are erased; an import in an action is loaded when the command runs.
    for (const [, names, from] of readFileSync(file, 'utf8').matchAll(
      /^import (?!type)([^;]*?)from '([^']+)'/gm,
    )) {
      const inBraces = /^\{(.*)\}\s*$/s.exec(names)?.[1].split(',');
      if (inBraces?.every((name) => name.trim() === '' || name.trim().startsWith('type '))) continue;
      if (from.startsWith('.')) visit(join(file, '..', from));
      else if (!from.startsWith('node:')) packages.add(from);
    }
  };
  visit(join(src, 'cli.ts'));
  const folders = new Set([...seen].map((file) => relative(src, file).split(sep)[0]));
  assert.ok(seen.has(join(src, 'commands', 'serve.ts')), 'the command files are visited');
  assert.ok(packages.has('commander'));
  for (const heavy of ['@tensorflow/tfjs', 'zod', 'yaml', 'fastify']) assert.ok(!packages.has(heavy), heavy);
  for (const folder of ['pipeline', 'config.ts', 'settings.ts', 'model', 'train', 'corpus'])
    assert.ok(!folders.has(folder), folder);
});

test('a reader that closes the pipe ends no command with an error', {
  skip: process.platform === 'win32' && 'bash',
}, () => {
  const realm = join(import.meta.dirname, '../../bin/realm');
  const command = 'set -o pipefail; "$0" "$1" eval --help | true && "$0" "$1" --help | true';
  const { status, stderr } = spawnSync('bash', ['-c', command, process.execPath, realm], {
    encoding: 'utf8',
  });
  assert.deepEqual({ status, stderr }, { status: 0, stderr: '' });
});
