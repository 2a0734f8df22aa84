import { type Html, html } from './html.ts';

/** How one run looks in every chart. Letter, dash and marker distinguish runs for readers who cannot see the colours. */
export interface Look {
  letter: string;
  /** A colour that the page's style defines for light and dark mode. */
  colour: string;
  dash: string | undefined;
  symbol: 'circle' | 'square' | 'triangle' | 'diamond' | 'star' | 'cross';
}

const COLOURS = 6;
const DASHES = [undefined, '6 3', '2 3', '9 3 2 3', '12 4'];
const SYMBOLS = ['circle', 'square', 'triangle', 'diamond', 'star', 'cross'] as const;

/** The look of run `i`, counted from 0; up to thirty runs have different pairs of colour and dash, and letters always differ. */
export function look(i: number): Look {
  return {
    letter: i < 26 ? String.fromCharCode(65 + i) : `R${i + 1}`,
    colour: `var(--run-${(i % COLOURS) + 1})`,
    dash: DASHES[i % DASHES.length],
    symbol: SYMBOLS[i % SYMBOLS.length],
  };
}

/** The stroke of a run's lines, for legends. */
export function swatch({ colour, dash }: Look): Html {
  return html`<svg class="swatch" viewBox="0 0 36 12" width="36" height="12" aria-hidden="true"><line x1="1" y1="6" x2="35" y2="6" stroke="${colour}" stroke-width="2.5"${dash !== undefined && html` stroke-dasharray="${dash}"`}></line></svg>`;
}
