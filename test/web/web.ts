// npm run test:web [-- --run RUN]: opens a run's report, as a file and served, in an installed Chromium: narrow and wide,
// light and dark. Without --run it makes a run with a shortened demo.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type Browser, chromium, type Page } from 'playwright-core';
import { loadConfig } from '../../src/config.ts';
import { readQuestions } from '../../src/datasets/questions.ts';
import { runFolder } from '../../src/run/folder.ts';

const { values: options } = parseArgs({
  options: {
    /** A fine-tuned run. */
    run: { type: 'string' },
    /** Folder for the screenshots. */
    to: { type: 'string' },
  },
});

const REALM = join(import.meta.dirname, '../../bin/realm');
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SHORT = [
  'world.documents=120',
  'ict.steps=40',
  'pretrain.steps=60',
  'qa.steps=60',
  'closedBook.steps=10',
];

const CHROMIUM = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/snap/bin/chromium',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
].find((path) => path && existsSync(path));

const failures: string[] = [];
const check = (good: boolean, what: string) => {
  console.log(`${good ? 'ok  ' : 'FAIL'} ${what}`);
  if (!good) failures.push(what);
};

if (CHROMIUM === undefined) {
  console.error('no Chromium found; install one, or set the environment variable CHROMIUM to its program');
  process.exitCode = 1;
} else {
  const work = mkdtempSync(join(tmpdir(), 'realm-web-'));
  const pictures = options.to ?? mkdtempSync(join(tmpdir(), 'realm-web-pictures-'));
  // The sandbox does not work for root and in many containers; the pages are the run's own.
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  try {
    await tryOut(browser, work, pictures);
  } finally {
    await browser.close();
    rmSync(work, { recursive: true });
  }
  console.log(`pictures in ${pictures}`);
  console.log(failures.length === 0 ? 'all passed' : `${failures.length} failed`);
  if (failures.length > 0) process.exitCode = 1;
}

async function tryOut(browser: Browser, work: string, pictures: string): Promise<void> {
  const dir = options.run ?? join(work, 'run');
  if (options.run === undefined) {
    await realm('demo', '--run', dir, ...SHORT.flatMap((setting) => ['--set', setting]));
  }
  const file = join(work, 'report.html');
  await realm('report', dir, '--to', file);
  const { data } = loadConfig(runFolder(dir).config, []);
  const [{ question }] = await readQuestions((data.test ?? data.dev)!, data.answers);

  const server = spawn(process.execPath, [REALM, 'serve', '--run', dir, '--port', '0', '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const url = await new Promise<string>((resolve, reject) => {
      server.stdout.once('data', (line) => resolve(JSON.parse(line).url));
      server.once('close', (code) => reject(new Error(`realm serve ended with code ${code}`)));
    });
    for (const width of [390, 1280]) {
      for (const colorScheme of ['light', 'dark'] as const) {
        const name = (what: string) => `${what}-${width}-${colorScheme}`;
        const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
        await inspect(await context.newPage(), pathToFileURL(file).href, name('file'), pictures);
        await inspect(await context.newPage(), url, name('served'), pictures, async (page) => {
          await page.getByRole('textbox').fill(question);
          await page.getByRole('textbox').press('Enter');
          await page.locator('#answers li').first().waitFor({ timeout: 60_000 });
          check(
            (await page.locator('#answers mark').first().innerText()) !== '',
            `${name('served')}: answers "${question}"`,
          );
        });
        await context.close();
      }
    }
  } finally {
    server.removeAllListeners('close');
    const ended = new Promise<number | null>((resolve) => server.once('close', resolve));
    server.kill('SIGINT');
    check((await ended) === 0, 'the server ends with 0 at Ctrl-C');
  }
}

/** Checks one page as a reader sees it, and with axe. */
async function inspect(
  page: Page,
  url: string,
  name: string,
  pictures: string,
  use: (page: Page) => Promise<void> = async () => {},
): Promise<void> {
  const troubles: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') troubles.push(message.text());
  });
  page.on('pageerror', (error) => troubles.push(error.message));
  page.on('requestfailed', (request) => troubles.push(`${request.url()}: ${request.failure()?.errorText}`));
  page.on('response', (response) => {
    if (response.status() >= 400) troubles.push(`${response.url()}: ${response.status()}`);
  });
  const asked: string[] = [];
  page.on('request', (request) => {
    if (!request.url().startsWith('data:')) asked.push(request.url());
  });
  await page.goto(url, { waitUntil: 'load' });
  await use(page);
  await page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });
  check(troubles.length === 0, `${name}: no error, no failed request ${troubles.join('; ')}`);
  const own = new URL('.', url).href;
  const foreign = asked.filter((one) => !one.startsWith(own));
  check(foreign.length === 0, `${name}: no request to another site ${foreign.join(' ')}`);

  // Evaluated by the browser's tools: the page's content security policy would refuse a script in the page.
  const [wide, violations, cut] = (await page.evaluate(`(async () => {
    ${AXE}
    const { violations } = await axe.run();
    const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
    return [
      document.documentElement.scrollWidth - document.documentElement.clientWidth,
      serious.map(({ id, nodes }) => id + ' (' + nodes.length + '): ' + nodes[0].html.slice(0, 200)),
      [...document.querySelectorAll('figure svg text')].filter((text) => {
        const [inner, outer] = [text, text.closest('svg')].map((e) => e.getBoundingClientRect());
        return inner.left < outer.left - 0.5 || inner.right > outer.right + 0.5
          || inner.top < outer.top - 0.5 || inner.bottom > outer.bottom + 0.5;
      }).map((text) => text.textContent),
    ];
  })()`)) as [number, string[], string[]];
  check(wide <= 0, `${name}: no sideways scrolling (${wide} px)`);
  check(cut.length === 0, `${name}: no label of a chart is cut off ${cut.join('; ')}`);
  check(violations.length === 0, `${name}: no serious or critical violation by axe ${violations.join('; ')}`);
  await page.close();
}

async function realm(...args: string[]): Promise<void> {
  const child = spawn(process.execPath, [REALM, ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
  const code = await new Promise((resolve) => child.once('close', resolve));
  if (code !== 0) throw new Error(`realm ${args[0]} ended with code ${code}`);
}
