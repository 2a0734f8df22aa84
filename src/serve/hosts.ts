import { isIP, isIPv4 } from 'node:net';
import { hostname } from 'node:os';
import { UserError } from '../system/errors.ts';

/** True of an address that only this machine can reach. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

/** Matches a Host header; the groups are its address or name, without the port. */
const HOST = /^(?:\[([\da-f:.]+)\]|([\w.-]+))(?::\d{1,5})?$/i;

/** The public address of a server behind a proxy, such as https://realm.example, as a URL. */
export function publicOrigin(text: string): URL {
  let url: URL | undefined;
  try {
    url = new URL(text);
  } catch {}
  if (!url || !/^https?:$/.test(url.protocol) || url.username !== '' || `${url.origin}/` !== url.href)
    throw new UserError(
      `--origin ${text}: is not a web address without a path; write it like https://realm.example`,
    );
  return url;
}

/**
 * Checks whether a Host header names this server. Another site can make its own name resolve to this machine (DNS
 * rebinding); its pages send that name and are refused. Numeric addresses are safe: nobody can make them resolve elsewhere.
 * @param host the address that the server listens on
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
    const given = (address ?? name)?.toLowerCase();
    if (given === undefined) return false;
    return isLoopback(given) || names.has(given) || (everywhere && isIP(given) !== 0);
  };
}

/**
 * Checks whether a request comes from this server's own page, by the Origin header, which browsers set and pages cannot
 * change. Programs send none.
 * @param host the request's Host header
 */
export function isOwnOrigin(header: string | undefined, host: string, origin?: URL): boolean {
  if (header === undefined || header === origin?.origin) return true;
  return header.replace(/^https?:\/\//, '').toLowerCase() === host.toLowerCase();
}
