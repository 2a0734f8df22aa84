import { main } from '../../src/cli.ts';

// CHILD-PROCESS ENTRY. Runs the command lines that it receives, one after another, and sends back the exit code and the
// output. It is faster than starting `realm` for each, because loading the code takes a second.

process.on('message', async (args: string[]) => {
  const [out, err] = [process.stdout, process.stderr].map(keep);
  const code = await main(['node', 'realm', ...args]);
  process.send!({ code, out: out.stop(), err: err.stop() });
});
process.on('disconnect', () => process.exit());

/** Collects the output of a stream instead of writing it. */
function keep(stream: NodeJS.WriteStream): { stop(): string } {
  const { write } = stream;
  let text = '';
  stream.write = (piece: string | Uint8Array) => {
    text += typeof piece === 'string' ? piece : Buffer.from(piece).toString();
    return true;
  };
  return {
    stop() {
      stream.write = write;
      return text;
    },
  };
}
