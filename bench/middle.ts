/** The median; of an even number of values the upper of the two in the middle. */
export function middle(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
}
