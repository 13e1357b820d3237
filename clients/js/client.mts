// Made from the OpenAPI document of a Perene server by scripts/js-client: make it again when a contract changes.
// Names and types of models, rows, answers and labels are those of `schema.d.mts`; nothing here repeats them.
import type { components, paths } from "./schema.mjs";

type Schemas = components["schemas"];

/** A deployed model. */
export type ModelName = keyof { [S in keyof Schemas as S extends `${infer M}.Row` ? M : never]: unknown };
/** One row of a model's contract. */
export type Row<M extends ModelName> = Schemas[`${M}.Row`];
/** What a model answers. */
export type Answer<M extends ModelName> = Schemas[`${M}.Answer`];
/** What really happened after a prediction. */
export type Label<M extends ModelName> = Schemas[`${M}.Label`];
/** Of each label, whether it was accepted. */
export type Results = Schemas["Results"];
/** One field that is wrong; `got` is a type, never the value. */
export type FieldError = NonNullable<Schemas["Error"]["error"]["errors"]>[number];

type Route<M extends ModelName> = `/models/${M}/${"predict" | "feedback"}` | `/models/${M}/versions/${number}/predict`;
/** Does not compile against a document without the routes that are asked below. */
export type Routes = { [M in ModelName]: paths[`/models/${M}/predict` | `/models/${M}/feedback`]["post"] };

export interface Options {
  /** API key. It belongs on a server of yours, not into a page. */
  key?: string;
  /** How long one attempt waits for the server. */
  timeoutMs?: number;
  /** How long a call may take with all its attempts. */
  deadlineMs?: number;
  /** Attempts after the first one. */
  retries?: number;
}

export interface Asking {
  /** A deployed version, instead of what the deployment says. */
  version?: number;
  /** Who the rows are about; keeps one entity on one arm of a trial. */
  entity?: string;
  /** The event's own time, when it is not now. */
  at?: Date | string;
  /** Your own name of this prediction, where a crash of yours may repeat it. */
  idempotencyKey?: string;
  signal?: AbortSignal;
}

/** A refusal of the server, with its facts; `status` is 0 when no answer came. */
export class PereneError extends Error {
  override readonly name = "PereneError";
  readonly status: number;
  readonly code: string;
  readonly where: string;
  readonly expected: string;
  readonly got: string;
  readonly hint: string;
  readonly requestId: string;
  readonly errors: readonly FieldError[];
  readonly retryAfterMs: number;

  constructor(message: string, status: number, facts: Facts = {}, retryAfterMs = 0, cause?: unknown) {
    super(message, { cause });
    this.status = status;
    this.code = facts.code ?? "unreachable";
    this.where = facts.where ?? "";
    this.expected = facts.expected ?? "";
    this.got = facts.got ?? "";
    this.hint = facts.hint ?? "";
    this.requestId = facts.request_id ?? "";
    this.errors = facts.errors ?? [];
    this.retryAfterMs = retryAfterMs;
  }
}

type Facts = Partial<Schemas["Error"]["error"]>;

const PASSING = new Set([0, 429, 502, 503, 504]);
const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/**
 * Asks a Perene server. Lost connections, 429, 502, 503 and 504 are tried again after random, growing pauses, not
 * before a `Retry-After` and not after the deadline. A prediction keeps its idempotency key over all attempts.
 */
export class Perene {
  readonly #url: string;
  readonly #headers: Record<string, string>;
  readonly #patience: Required<Omit<Options, "key">>;

  constructor(url: string, options: Options = {}) {
    const { key, timeoutMs = 10_000, deadlineMs = 30_000, retries = 4 } = options;
    if (!/^https?:$/.test(new URL(url).protocol)) throw new TypeError("the address of a server is http(s)://host[:port]");
    this.#url = url.replace(/\/+$/, "");
    this.#headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
    this.#patience = { timeoutMs, deadlineMs, retries };
  }

  /** Predict one row or several. */
  async predict<M extends ModelName>(
    model: M,
    rows: Row<M> | readonly Row<M>[],
    { version, entity, at, idempotencyKey, signal }: Asking = {},
  ): Promise<Answer<M>> {
    const route: Route<M> = version === undefined ? `/models/${model}/predict` : `/models/${model}/versions/${version}/predict`;
    const body = { rows: Array.isArray(rows) ? rows : [rows], entity, at };
    return this.#post(route, body, signal, this.#named(idempotencyKey));
  }

  /** Say what really happened; the labels are durable on the server when this resolves. */
  async feedback<M extends ModelName>(
    model: M,
    labels: Label<M> | readonly Label<M>[],
    { signal }: Pick<Asking, "signal"> = {},
  ): Promise<Results> {
    const route: Route<M> = `/models/${model}/feedback`;
    return this.#post(route, { items: Array.isArray(labels) ? labels : [labels] }, signal);
  }

  /** The header that makes attempts one prediction; what is asked once needs none. */
  #named(given?: string): Record<string, string> {
    return given === undefined && !this.#patience.retries ? {} : { "idempotency-key": given ?? crypto.randomUUID() };
  }

  async #post<T>(route: string, body: unknown, signal?: AbortSignal, headers: Record<string, string> = {}): Promise<T> {
    const { timeoutMs, deadlineMs, retries } = this.#patience;
    const content = JSON.stringify(body, finite);
    const ends = Date.now() + deadlineMs;
    for (let attempt = 0; ; attempt++) {
      const limit = AbortSignal.timeout(Math.max(1, Math.min(timeoutMs, ends - Date.now())));
      const error = await this.#attempt<T>(route, {
        method: "POST",
        body: content,
        headers: { ...this.#headers, ...headers },
        redirect: "error",
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
      if (!(error instanceof PereneError)) return error;
      signal?.throwIfAborted();
      const pause = error.retryAfterMs + Math.random() * Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt);
      // 409 with a time: the first attempt of this prediction is still under way
      const passing = PASSING.has(error.status) || (error.status === 409 && error.retryAfterMs > 0);
      if (!passing || attempt >= retries || Date.now() + pause >= ends) throw error;
      await new Promise((resolve) => setTimeout(resolve, pause));
      signal?.throwIfAborted();
    }
  }

  async #attempt<T>(route: string, init: RequestInit): Promise<T | PereneError> {
    let response: Response;
    let text: string;
    try {
      response = await fetch(this.#url + route, init);
      text = await response.text();
    } catch (cause) {
      return new PereneError("the server does not answer", 0, {}, 0, cause);
    }
    const found = parsed(text);
    if (response.ok && found !== undefined) return found as T;
    const facts = (found as { error?: Facts } | undefined)?.error;
    const told = typeof facts === "object" ? facts : { code: "refused" };
    const message = told.message ?? `the server answered ${response.status}, not as Perene does`;
    return new PereneError(message, response.status, told, waitOf(response.headers.get("retry-after")));
  }
}

/** JSON has no NaN and would say null, which is another value. */
function finite(key: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new PereneError(`${key}: not finite`, 0, { code: "contract_violation", where: key, expected: "a finite number" });
  }
  return value;
}

function parsed(text: string): object | undefined {
  try {
    const found: unknown = JSON.parse(text);
    return typeof found === "object" && found !== null ? found : undefined;
  } catch {
    return undefined;
  }
}

function waitOf(retryAfter: string | null): number {
  if (!retryAfter) return 0;
  const ms = /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1_000 : Date.parse(retryAfter) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}
