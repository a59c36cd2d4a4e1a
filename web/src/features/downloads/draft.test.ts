import { expect, test } from "vitest";
import { Quantization } from "../../gen/millm/catalog/v1/catalog_pb";
import { type Draft, EMPTY_DRAFT, fieldOf, isRepoId, repoIdIn, requestOf, validate } from "./draft";

const hub = (repo: string): Draft => ({ ...EMPTY_DRAFT, repo });
const local = (path: string): Draft => ({ ...EMPTY_DRAFT, source: "local", path });

test.each(["google/gemma-2-2b", "hf-internal-testing/tiny-random-gpt2", "a/b", "A.b_c/d-1.5"])(
  "%s is a repository id",
  (id) => {
    expect(isRepoId(id)).toBe(true);
  },
);

// The server's own list of bad ones.
test.each([
  ...["", "a", "../x", "a/b/c", "a--b/c", "a/x.git", "é/b", "https://hub/a/b", "a/", "/b", "a/.b", "a/b-"],
  ...[`${"a".repeat(97)}/b`, "a/b\n", "a b/c", "a/.."],
])("%j is no repository id", (id) => {
  expect(isRepoId(id)).toBe(false);
});

test("the address of a repository's page stands for its id", () => {
  expect(repoIdIn(" https://huggingface.co/google/gemma-2-2b/tree/main ")).toBe("google/gemma-2-2b");
  expect(repoIdIn("google/gemma-2-2b")).toBe("google/gemma-2-2b");
});

test("validation names the field and what to enter", () => {
  expect(validate(hub("google/gemma-2-2b"))).toEqual({});
  expect(validate(hub("  ")).repo).toContain("Enter a repository id");
  expect(validate(hub("gemma")).repo).toContain("owner/name");
  expect(validate(local("/models/tiny"))).toEqual({});
  expect(validate(local("C:\\models\\tiny.gguf"))).toEqual({});
  expect(validate(local("models/tiny")).path).toContain("absolute");
  expect(validate(local("")).path).toContain("GGUF");
});

test("a hub request carries what was chosen, trimmed", () => {
  const draft: Draft = { ...hub(" a/b "), token: " hf_x ", trustRemoteCode: true, file: "b-q8.gguf" };
  expect(requestOf(draft)).toEqual({
    quantization: Quantization.Q4,
    trustRemoteCode: true,
    source: { case: "hub", value: { repoId: "a/b", file: "b-q8.gguf", hfToken: "hf_x" } },
  });
});

test("a local request keeps the published form unless asked", () => {
  expect(requestOf(local("/m"))).toEqual({
    quantization: Quantization.NATIVE,
    trustRemoteCode: false,
    source: { case: "localPath", value: "/m" },
  });
});

test("refusals find their field", () => {
  const problem = (reason: string) => ({ reason, message: "", metadata: {} });
  expect(fieldOf(problem("REPO_NOT_FOUND"))).toBe("repo");
  expect(fieldOf(problem("INVALID_HF_TOKEN"))).toBe("token");
  expect(fieldOf(problem("INSUFFICIENT_DISK"))).toBeUndefined();
});
