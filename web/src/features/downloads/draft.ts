// What a person has typed into the download card, whether it can be sent, and where a refusal belongs.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Problem } from "../../api/errors";
import { Quantization } from "../../gen/millm/catalog/v1/catalog_pb";
import type { StartDownloadRequestSchema } from "../../gen/millm/downloader/v1/downloader_pb";

export interface Draft {
  source: "hub" | "local";
  repo: string;
  // One GGUF file of the repository; "" for the usual choice.
  file: string;
  token: string;
  trustRemoteCode: boolean;
  path: string;
  // Each source has its own default, so each keeps its own choice.
  quantization: { hub: Quantization; local: Quantization };
}

export const EMPTY_DRAFT: Draft = {
  source: "hub",
  repo: "",
  file: "",
  token: "",
  trustRemoteCode: false,
  path: "",
  quantization: { hub: Quantization.Q4, local: Quantization.NATIVE },
};

export type DraftField = "repo" | "token" | "trustRemoteCode" | "path" | "quantization";
export type DraftErrors = Partial<Record<DraftField, string>>;

// What can be said without asking the server. An empty record: send it.
export function validate(draft: Draft): DraftErrors {
  if (draft.source === "local") {
    const path = draft.path.trim();
    if (path === "") {
      return { path: "Enter the path of a model folder or of a GGUF file." };
    }
    return isAbsolute(path) ? {} : { path: "The path must be absolute: it is read on the server." };
  }
  const repo = repoIdIn(draft.repo);
  if (repo === "") {
    return { repo: "Enter a repository id." };
  }
  return isRepoId(repo) ? {} : { repo: "Expected owner/name, for example google/gemma-2-2b." };
}

// The repository id in what was typed or pasted: the address of its page will do too.
export function repoIdIn(text: string): string {
  const trimmed = text.trim();
  const page = /^https?:\/\/(?:www\.)?(?:huggingface\.co|hf\.co)\/([^/?#]+\/[^/?#]+)/.exec(trimmed);
  return page?.[1] ?? trimmed;
}

const PART = /^(?![-.])(?!.*(?:--|\.\.))[A-Za-z0-9._-]{1,96}(?<![-.])$/;

export function isRepoId(text: string): boolean {
  const parts = text.split("/");
  return parts.length === 2 && parts.every((part) => PART.test(part)) && !/\.git$/i.test(text);
}

function isAbsolute(path: string): boolean {
  return path.startsWith("/") || /^[A-Za-z]:[\\/]/.test(path);
}

export function requestOf(draft: Draft): MessageInitShape<typeof StartDownloadRequestSchema> {
  const common = {
    quantization: draft.quantization[draft.source],
    trustRemoteCode: draft.trustRemoteCode,
  };
  if (draft.source === "local") {
    return { ...common, source: { case: "localPath", value: draft.path.trim() } };
  }
  return {
    ...common,
    source: {
      case: "hub",
      value: { repoId: repoIdIn(draft.repo), file: draft.file, hfToken: draft.token.trim() },
    },
  };
}

const FIELDS: Record<string, DraftField> = {
  INVALID_REPO_ID: "repo",
  REPO_NOT_FOUND: "repo",
  GATED_MODEL_NO_TOKEN: "token",
  GATED_MODEL_NO_ACCESS: "token",
  INVALID_HF_TOKEN: "token",
  REMOTE_CODE_REQUIRED: "trustRemoteCode",
  INVALID_LOCAL_PATH: "path",
};

// The field that a server's refusal is about, if it is about one.
export function fieldOf(problem: Problem): DraftField | undefined {
  return FIELDS[problem.reason];
}
