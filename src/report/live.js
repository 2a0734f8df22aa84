// Runs in the browser, on the page that realm serves: asks questions, and keeps the report up to date.

const form = document.querySelector('#ask form');
const box = document.querySelector('#question');
const button = form.querySelector('button');
const answers = document.querySelector('#answers');
const report = document.querySelector('#report');

box.disabled = false;
button.disabled = false;

/** An element with text content, which is never parsed as HTML. */
function element(name, text, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function shown({
  answer,
  probability,
  retrieval,
  reading,
  title,
  document: id,
  before,
  after,
  extraDocument,
}) {
  const item = element('li');
  const head = element('p');
  head.append(
    element('strong', answer || 'no answer'),
    element('span', ` ${percent(probability)} of all spans`, 'soft'),
  );
  const passage = element('blockquote');
  passage.dir = 'auto';
  passage.append(before ?? '', element('mark', answer), after ?? '');
  item.append(
    head,
    passage,
    element(
      'p',
      `${title || id}${extraDocument ? ' (given with the question)' : ''} · p(z|x) ${percent(retrieval)} · p(y|z,x) ${percent(reading)}`,
      'source',
    ),
  );
  return item;
}

async function ask(question) {
  const response = await fetch('api/ask', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ question }),
  });
  if (response.status === 401) throw new Error('your session has ended; reload this page to log in again');
  const result = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(result.error ?? `the server answered with status ${response.status}`);
  return result;
}

/** A flag, because disabling the button would take the keyboard's focus away. */
let waiting = false;

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (!question || waiting) return;
  waiting = true;
  answers.replaceChildren(element('p', 'Reading…', 'soft'));
  try {
    const result = await ask(question);
    const list = element('ol');
    list.append(...result.answers.map(shown));
    const { nullProbability, retrievalUtility, truncated } = result;
    const notes = [
      list.children.length > 0 &&
        "An answer's probability is among the spans of all blocks read, normalised over all of them at once: it is not the product p(z|x) p(y|z,x).",
      nullProbability !== undefined &&
        `Null document probability, among the blocks read: ${percent(nullProbability)}.`,
      retrievalUtility !== undefined && `Retrieval utility: ${retrievalUtility.toFixed(2)} nats.`,
      (nullProbability !== undefined || retrievalUtility !== undefined) &&
        'These describe what retrieval did, not whether the answer is right.',
      truncated && 'The question is too long for this run and was truncated.',
    ].filter(Boolean);
    answers.replaceChildren(
      element('p', result.question ?? question, 'question'),
      result.answers.length > 0 ? list : element('p', 'No answer was found.'),
      element('p', notes.join(' '), 'soft'),
    );
  } catch (error) {
    answers.replaceChildren(element('p', `Not answered: ${error.message}`, 'trouble'));
  } finally {
    waiting = false;
  }
});

const UPDATE_MILLISECONDS = 10_000;
let last;

async function update() {
  // An update would drop the reader's text selection.
  const selection = document.getSelection();
  if (document.hidden || (selection && !selection.isCollapsed)) return;
  const response = await fetch('report/body');
  if (!response.ok) return;
  const text = await response.text();
  if (text === last) return;
  last = text;
  const keyed = () => [...report.querySelectorAll('details[data-key]')];
  const open = new Map(keyed().map((details) => [details.dataset.key, details.open]));
  const focusable = () => [...report.querySelectorAll('a[href], summary, [tabindex]')];
  const focused = focusable().indexOf(document.activeElement);
  const scrolled = [...report.querySelectorAll('.scroll')].map((region) => region.scrollLeft);
  report.innerHTML = text;
  for (const details of keyed()) details.open = open.get(details.dataset.key) ?? details.open;
  report.querySelectorAll('.scroll').forEach((region, i) => {
    region.scrollLeft = scrolled[i] ?? 0;
  });
  focusable()[focused]?.focus({ preventScroll: true });
}

setInterval(() => update().catch(() => {}), UPDATE_MILLISECONDS);
