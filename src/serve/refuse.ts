import type { FastifyReply } from 'fastify';

/** Ends a request with `{"error": …}`, the format of every refusal. */
export function refuse(reply: FastifyReply, status: number, error: string): FastifyReply {
  return reply.code(status).type('application/json; charset=utf-8').send(JSON.stringify({ error }));
}
