import { CATALOGUE } from '../datasets/catalogue.ts';
import { size } from '../pipeline/data.ts';

/** What there is to get. */
export function dataLines(): string[] {
  return Object.entries(CATALOGUE).flatMap(([name, { what, licence, files }]) => [
    `${name.padEnd(15)} ${what}`,
    `${''.padEnd(15)} ${size(files)}, ${licence}`,
  ]);
}
