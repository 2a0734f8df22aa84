/** Whether this process prints anything but errors: of several that train together, one reports. */
let quiet = false;

export const isQuiet = () => quiet;

/** From now on this process prints nothing but errors. */
export function silence(): void {
  quiet = true;
}
