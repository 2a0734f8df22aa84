import { isIP, isIPv4 } from 'node:net';
import { hostname } from 'node:os';

/** True of an address that this machine alone reaches. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

/** The name of a Host header, without its port. */
const HOST = /^(?:\[([\da-f:.]+)\]|([\w.-]+))(?::\d{1,5})?$/i;

/**
 * Tells whether a Host header names this server. A page of another site that has its own name resolve to this machine
 * (DNS rebinding) sends that name, and is refused; an address in figures cannot be made to resolve elsewhere.
 * @param host the address that the server listens at
 */
export function hostCheck(host: string): (header: string | undefined) => boolean {
  const everywhere = host === '0.0.0.0' || host === '::';
  const names = new Set([host.toLowerCase(), ...(everywhere ? [hostname().toLowerCase()] : [])]);
  return (header) => {
    const [, address, name] = HOST.exec(header ?? '') ?? [];
    const asked = (address ?? name)?.toLowerCase();
    if (asked === undefined) return false;
    return isLoopback(asked) || names.has(asked) || (everywhere && isIP(asked) !== 0);
  };
}
