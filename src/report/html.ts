/** A piece of HTML whose text is escaped already. */
export class Html {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  toString(): string {
    return this.text;
  }
}

type Value = Html | string | number | undefined | false | readonly Value[];

const ESCAPES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/**
 * A template that escapes whatever is put into it, for elements and quoted attributes alike, unless it is `Html` itself.
 * Lists are joined; undefined and false leave nothing. Everything a run folder holds is somebody's text: it comes onto a
 * page through here.
 */
export function html(parts: TemplateStringsArray, ...values: readonly Value[]): Html {
  return new Html(parts.reduce((text, part, i) => text + written(values[i - 1]) + part));
}

/** HTML made elsewhere that has escaped its texts: a drawn chart, the page's own style and script. */
export function raw(text: string): Html {
  return new Html(text);
}

function written(value: Value): string {
  if (value === undefined || value === false) return '';
  if (value instanceof Html) return value.text;
  if (typeof value === 'object') return value.map(written).join('');
  return String(value).replace(/[&<>"']/g, (c) => ESCAPES[c]);
}
