/** A share in per cent: 0.744 is 74.4 %. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** Three significant digits, or all digits of a whole number. */
export function figure(value: number): string {
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 999.5) return whole(value);
  if (size < 0.001) return minus(value.toExponential(1));
  return minus(
    value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : size >= 0.0995 ? 3 : 4),
  );
}

/** A whole number with its digits in groups of three. */
export function whole(value: number): string {
  return minus(value.toLocaleString('en-US', { maximumFractionDigits: 0 }));
}

export function seconds(value: number): string {
  if (value < 1) return `${figure(Number((1000 * value).toPrecision(3)))} ms`;
  return `${figure(value)} s`;
}

function minus(text: string): string {
  return text.replace(/^-/, '−');
}

/** A text of any length, truncated to `max` characters. */
export function clipped(text: string, max: number): string {
  const letters = [...text.slice(0, 2 * max + 2)];
  return letters.length > max ? `${letters.slice(0, max).join('')}…` : text;
}
