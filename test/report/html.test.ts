import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHTML } from 'linkedom';
import { html, raw } from '../../src/report/html.ts';

test('a parser reads the same texts that were put in, in elements and attributes', () => {
  for (const text of ['<script>alert(1)</script>', `"'><img src=x onerror=alert(1)>`, '&amp; &lt;', "a'b"]) {
    const { document } = parseHTML(html`<!doctype html><body><p title="${text}">${text}</p></body>`.text);
    const p = document.querySelector('p')!;
    assert.equal(p.textContent, text);
    assert.equal(p.getAttribute('title'), text);
    assert.equal(document.querySelectorAll('body *').length, 1);
  }
});

test('HTML is inserted unchanged, lists are joined, missing values give an empty string', () => {
  const list = ['<', html`<b>${'&'}</b>`, undefined, false as const, 0];
  assert.equal(html`<i>${list}</i>${raw('<br>')}`.text, '<i>&lt;<b>&amp;</b>0</i><br>');
});
