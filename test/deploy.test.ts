import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { parseAllDocuments } from 'yaml';
import { commandsOf, realm } from '../src/cli.ts';

// The files in deploy/: their commands are command lines that realm accepts, and each is checked by a tool that knows its
// format. Those tools are packages of the Python registry, with their versions in CONTRIBUTING.md; without one its test is skipped.

const DEPLOY = join(import.meta.dirname, '../deploy');
const files = (folder: string, end: string) =>
  readdirSync(join(DEPLOY, folder))
    .filter((name) => name.endsWith(end))
    .map((name) => join(DEPLOY, folder, name));
const scripts = files('slurm', '.sbatch');
const manifests = files('kubernetes', '.yaml');
const documents = (path: string) =>
  parseAllDocuments(readFileSync(path, 'utf8')).map((document) => {
    assert.deepEqual(document.errors, [], path);
    return document.toJS();
  });

/** Whether the program takes these arguments; nothing is run. */
async function accepted(args: readonly string[], path: string): Promise<void> {
  const program = realm(() => {});
  for (const command of commandsOf(program)) {
    command.exitOverride().configureOutput({ writeOut: () => {}, writeErr: () => {} });
    command.action(() => {});
  }
  await assert.doesNotReject(program.parseAsync([...args], { from: 'user' }), `${path}: ${args.join(' ')}`);
}

/** Runs a tool; skips the test where it is not installed. */
function tool(t: TestContext, name: string, args: readonly string[]) {
  const { error, status, stdout, stderr } = spawnSync(name, args, { encoding: 'utf8' });
  if (error) return t.skip(`${name} is not installed`);
  assert.equal(status, 0, `${stdout}${stderr}`);
}

test('the scripts for Slurm run commands of realm', async () => {
  assert.equal(scripts.length, 3);
  for (const path of scripts) {
    const text = readFileSync(path, 'utf8').replaceAll('\\\n', ' ');
    const [, command] = /^srun (?:--mpi=pmi2 )?realm (.*)$/m.exec(text)!;
    const words = command
      .replace(/\$\{SHARDS:\+(.*)\}$/, '$1')
      .replace(/"\$\{RUN:\?[^}]*\}"/, 'RUN')
      .replace(/"\$\{SLURM_CPUS_PER_TASK:-(\d+)\}"/, '$1')
      .replace('"$SHARDS"', '64');
    await accepted(words.split(/\s+/), path);
    // A task without its share of processors would use all of the node.
    assert.match(text, /^#SBATCH --cpus-per-task=\d+$/m);
    assert.equal(spawnSync('bash', ['-n', path]).status, 0, path);
  }
});

test('the scripts for Slurm pass shellcheck', (t) => tool(t, 'shellcheck', scripts));

test('the manifests for Kubernetes run commands of realm', async () => {
  const jobs = manifests.flatMap(documents).filter(({ kind }) => kind === 'Job');
  assert.equal(jobs.length, 2);
  for (const { metadata, spec } of jobs) {
    const [{ args, resources }] = spec.template.spec.containers;
    await accepted(args, metadata.name);
    const after = (option: string) => args[args.indexOf(option) + 1];
    assert.equal(after('--threads'), resources.limits.cpu);
    if (spec.completionMode === 'Indexed') assert.equal(after('--shards'), String(spec.completions));
    assert.equal(spec.podReplacementPolicy, 'Failed');
  }
});

test('the compose file runs a worker, and keeps the password out of the file', async () => {
  const [{ services }] = documents(join(DEPLOY, 'compose.yaml'));
  await accepted(services.worker.command, 'compose.yaml');
  for (const { environment } of Object.values<{ environment: Record<string, string> }>(services))
    assert.match(environment.REALM_QUEUE_PASSWORD, /^\$\{REALM_QUEUE_PASSWORD:\?/);
  assert.match(services.redis.command.join(' '), /--maxmemory-policy noeviction/);
});

test('the compose file is valid by the compose specification', (t) => {
  const check =
    'import sys, compose_spec; compose_spec.PyCompose.from_yaml(open(sys.argv[1]).read()).to_spec()';
  if (spawnSync('python3', ['-c', 'import compose_spec']).status !== 0)
    return t.skip('the Python package compose-spec is not installed');
  return tool(t, 'python3', ['-c', check, join(DEPLOY, 'compose.yaml')]);
});

test('the manifests are valid by the schemas of Kubernetes', (t) =>
  tool(t, 'kubernetes-validate', ['--strict', '-k', '1.33', ...manifests]));
