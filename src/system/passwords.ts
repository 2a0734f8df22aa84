/** A text with user and password of all addresses in it left out, as messages and files may show it. */
export function withoutPassword(text: string): string {
  return text.replace(/(\w+:\/\/)[^\s/"']*@/g, '$1');
}
