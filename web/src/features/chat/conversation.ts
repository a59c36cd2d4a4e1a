// The conversation: what was said, the answer that is arriving, and how to stop it. It lives outside the page, so
// that a look at the models does not lose it; it is never stored.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { useMemo, useSyncExternalStore } from "react";
import type { Clients } from "../../api/clients";
import { useClients } from "../../api/context";
import { problemOf } from "../../api/errors";
import {
  FinishReason,
  type GenerateEnd,
  type GenerateRequestSchema,
} from "../../gen/millm/runtime/v1/runtime_pb";

export interface Turn {
  id: number;
  role: "user" | "assistant";
  text: string;
  // Of an answer that has ended: "38 tokens • 21.4 tokens/s".
  note?: string;
  error?: string;
}

export interface ChatSettings {
  temperature: number;
  maxTokens: number;
}

export interface ChatState {
  turns: readonly Turn[];
  answering: boolean;
  settings: ChatSettings;
}

export interface Conversation {
  current(): ChatState;
  subscribe(listener: () => void): () => void;
  // Asks and answers; `templated` says whether the model has a chat template.
  send(text: string, templated: boolean): Promise<void>;
  stop(): void;
  clear(): void;
  set(settings: Partial<ChatSettings>): void;
}

const START: ChatState = { turns: [], answering: false, settings: { temperature: 0.7, maxTokens: 512 } };

export function createConversation(runtime: Pick<Clients["runtime"], "generate">): Conversation {
  let state = START;
  let nextId = 0;
  let stopping: AbortController | undefined;
  const listeners = new Set<() => void>();

  function set(change: Partial<ChatState>) {
    state = { ...state, ...change };
    for (const listener of listeners) {
      listener();
    }
  }

  function changeTurn(id: number, change: (turn: Turn) => Turn) {
    set({ turns: state.turns.map((turn) => (turn.id === id ? change(turn) : turn)) });
  }

  function turn(role: Turn["role"], text: string): Turn {
    nextId += 1;
    return { id: nextId, role, text };
  }

  async function send(text: string, templated: boolean) {
    if (state.answering) {
      return;
    }
    const stop = new AbortController();
    stopping = stop;
    const turns = [...state.turns.filter((earlier) => earlier.text !== ""), turn("user", text)];
    const answer = turn("assistant", "");
    set({ turns: [...turns, answer], answering: true });
    try {
      const request = requestOf(turns, state.settings, templated);
      for await (const part of runtime.generate(request, { signal: stop.signal })) {
        const end = part.end;
        if (part.text !== "" || end) {
          changeTurn(answer.id, (before) => ({
            ...before,
            text: before.text + part.text,
            ...(end ? { note: noteOf(end) } : {}),
          }));
        }
      }
    } catch (cause) {
      const problem = stop.signal.aborted ? null : problemOf(cause);
      changeTurn(answer.id, (before) => ({
        ...before,
        ...(problem ? { error: problem.message } : { note: "Stopped" }),
      }));
    } finally {
      if (stopping === stop) {
        stopping = undefined;
        set({ answering: false });
      }
    }
  }

  return {
    current: () => state,
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    send,
    stop: () => stopping?.abort(),
    clear() {
      stopping?.abort();
      stopping = undefined;
      set({ turns: [], answering: false });
    },
    set: (settings) => set({ settings: { ...state.settings, ...settings } }),
  };
}

// A model without a chat template continues what has been written so far.
function requestOf(
  turns: readonly Turn[],
  settings: ChatSettings,
  templated: boolean,
): MessageInitShape<typeof GenerateRequestSchema> {
  const sampling = { temperature: settings.temperature, chatDefaults: true };
  const common = { sampling, maxTokens: settings.maxTokens };
  if (!templated) {
    return { ...common, prompt: { case: "text", value: turns.map(({ text }) => text).join("") } };
  }
  const messages = turns.map(({ role, text }) => ({ role, content: text }));
  return { ...common, prompt: { case: "messages", value: { messages } } };
}

const ENDS: Partial<Record<FinishReason, string>> = {
  [FinishReason.LENGTH]: "reached the token limit",
  [FinishReason.CANCELLED]: "ended by the server",
};

export function noteOf(end: GenerateEnd): string {
  const tokens = end.generatedTokens;
  const parts = [tokens === 1 ? "1 token" : `${tokens} tokens`];
  const total = end.totalTime ? durationMs(end.totalTime) : 0;
  const first = end.timeToFirstToken ? durationMs(end.timeToFirstToken) : 0;
  // The first token is the prompt's work; the speed is that of the others.
  if (tokens > 1 && total > first) {
    parts.push(`${(((tokens - 1) * 1000) / (total - first)).toFixed(1)} tokens/s`);
  }
  const why = ENDS[end.finishReason];
  if (why) {
    parts.push(why);
  }
  return parts.join(" • ");
}

const conversations = new WeakMap<Clients, Conversation>();

// The conversation of this page's server.
export function useConversation(): { chat: Conversation; state: ChatState } {
  const clients = useClients();
  const chat = useMemo(() => {
    const known = conversations.get(clients) ?? createConversation(clients.runtime);
    conversations.set(clients, known);
    return known;
  }, [clients]);
  return { chat, state: useSyncExternalStore(chat.subscribe, chat.current) };
}
