// Errors as people read them: the server's sentence, and the reason (google.rpc.ErrorInfo) that code decides by.
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb";
import type { Status } from "../gen/google/rpc/status_pb";

export interface Problem {
  // UPPER_SNAKE_CASE from the server's error table, or "UNREACHABLE" when nothing answered; "" when none came.
  reason: string;
  message: string;
  metadata: Record<string, string>;
}

const UNREACHABLE: Problem = {
  reason: "UNREACHABLE",
  message: "The server is not answering. Is `millm serve` running?",
  metadata: {},
};

// What a failed call means. `null` when we ended the call ourselves: nothing to tell.
export function problemOf(cause: unknown): Problem | null {
  const error = ConnectError.from(cause);
  const info = error.findDetails(ErrorInfoSchema)[0];
  if (info) {
    return { reason: info.reason, message: sentence(error.rawMessage), metadata: { ...info.metadata } };
  }
  if (error.code === Code.Canceled || isAbort(cause)) {
    return null;
  }
  // fetch() rejects with a TypeError when there is no connection; a gateway in front answers with a bare 502 to 504.
  if (error.cause instanceof TypeError || (error.code === Code.Unavailable && isBareHttp(error.rawMessage))) {
    return UNREACHABLE;
  }
  return { reason: "", message: sentence(error.rawMessage) || "Something went wrong.", metadata: {} };
}

// What a `google.rpc.Status` inside a message (a failed download, a failed load) means.
export function problemOfStatus(status: Status | undefined): Problem | undefined {
  if (!status || (status.code === 0 && status.message === "")) {
    return undefined;
  }
  for (const detail of status.details) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info) {
      return { reason: info.reason, message: sentence(status.message), metadata: { ...info.metadata } };
    }
  }
  return { reason: "", message: sentence(status.message) || "Something went wrong.", metadata: {} };
}

const NEEDS_TOKEN = new Set(["GATED_MODEL_NO_TOKEN", "GATED_MODEL_NO_ACCESS", "INVALID_HF_TOKEN"]);

// Whether another Hugging Face token might help.
export function asksForToken(problem: Problem | undefined): boolean {
  return problem !== undefined && NEEDS_TOKEN.has(problem.reason);
}

function isAbort(cause: unknown): boolean {
  return cause instanceof DOMException && cause.name === "AbortError";
}

function isBareHttp(message: string): boolean {
  return message === "" || /^HTTP \d+/.test(message);
}

// A name at the beginning, as of a file, stays as it is.
function sentence(message: string): string {
  return /^\p{Ll}+[.,;:]?(\s|$)/u.test(message)
    ? message.charAt(0).toUpperCase() + message.slice(1)
    : message;
}
