import { isIP, isIPv4 } from 'node:net';
import { hostname } from 'node:os';
import { UserError } from '../system/errors.ts';

/** True of an address that this machine alone reaches. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

/** The name of a Host header, without its port. */
const HOST = /^(?:\[([\da-f:.]+)\]|([\w.-]+))(?::\d{1,5})?$/i;

/** The public address of a server behind a proxy, such as https://realm.example, as a URL. */
export function publicOrigin(text: string): URL {
  let url: URL | undefined;
  try {
    url = new URL(text);
  } catch {}
  if (!url || !/^https?:$/.test(url.protocol) || url.username !== '' || `${url.origin}/` !== url.href)
    throw new UserError(
      `--origin ${text}: is not the start of a web address; give it like https://realm.example, without a path`,
    );
  return url;
}

/**
 * Tells whether a Host header names this server. A page of another site that has its own name resolve to this machine
 * (DNS rebinding) sends that name, and is refused; an address in figures cannot be made to resolve elsewhere.
 * @param host the address that the server listens at
 * @param origin its public address behind a proxy
 */
export function hostCheck(host: string, origin?: URL): (header: string | undefined) => boolean {
  const everywhere = host === '0.0.0.0' || host === '::';
  const names = new Set([
    host.toLowerCase(),
    ...(everywhere ? [hostname().toLowerCase()] : []),
    ...(origin ? [origin.hostname.replace(/^\[|\]$/g, '')] : []),
  ]);
  return (header) => {
    const [, address, name] = HOST.exec(header ?? '') ?? [];
    const asked = (address ?? name)?.toLowerCase();
    if (asked === undefined) return false;
    return isLoopback(asked) || names.has(asked) || (everywhere && isIP(asked) !== 0);
  };
}

/**
 * Tells whether the page that sends a request is this server's own, by the Origin header that browsers set and no page can
 * change. Programs send none.
 * @param host the request's Host header
 */
export function isOwnOrigin(header: string | undefined, host: string, origin?: URL): boolean {
  if (header === undefined || header === origin?.origin) return true;
  return header.replace(/^https?:\/\//, '').toLowerCase() === host.toLowerCase();
}
