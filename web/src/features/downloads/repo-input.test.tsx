import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { act, screen, waitFor } from "@testing-library/react";
import { useRef, useState } from "react";
import { beforeEach, expect, test, vi } from "vitest";
import { renderWith } from "../../app/test-page";
import { FoundRepo_Support, SearchReposResponseSchema } from "../../gen/millm/downloader/v1/downloader_pb";
import { RepoInput } from "./repo-input";
import { fitting, searchText } from "./suggestions";

const submitted = vi.fn();

beforeEach(() => submitted.mockClear());

function Page() {
  const [value, setValue] = useState("");
  const input = useRef<HTMLInputElement>(null);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        submitted(value);
      }}
    >
      <label htmlFor="repo">Repository</label>
      <RepoInput control={{ id: "repo" }} inputRef={input} value={value} onChange={setValue} />
      <button type="submit">Go</button>
    </form>
  );
}

const NAMES = ["google/gemma-2-2b", "google/gemma-2-2b-it", "acme/gemma-mamba"];

const answer = (names: string[]) =>
  create(SearchReposResponseSchema, {
    repos: names.map((repoId) => ({
      repoId,
      downloads: 1_200_000n,
      gated: repoId.startsWith("google/"),
      support: repoId.includes("mamba") ? FoundRepo_Support.UNSUPPORTED : FoundRepo_Support.SUPPORTED,
    })),
  });

function page(search: (query: string) => object | Promise<object> = () => answer(NAMES)) {
  const asked: string[] = [];
  const user = renderWith(<Page />, {
    downloader: {
      searchRepos({ query }) {
        asked.push(query);
        return search(query);
      },
    },
  });
  return { user, asked };
}

const field = () => screen.getByRole<HTMLInputElement>("combobox", { name: "Repository" });
const options = () => screen.queryAllByRole("option").map((option) => option.textContent);
// All that an answer which is there already sets off.
const settled = () => act(() => new Promise((resolve) => setTimeout(resolve)));

test("what is typed is looked for once, when the typing pauses", async () => {
  const { user, asked } = page();
  await user.type(field(), "gemma");
  expect(await screen.findAllByRole("option")).toHaveLength(3);
  expect(asked).toEqual(["gemma"]);
  expect(options()[0]).toContain("google/gemma-2-2b");
  expect(options()[0]).toContain("1.2M downloads • gated");
  expect(options()[2]).toContain("does not run here");
  expect(field().getAttribute("aria-expanded")).toBe("true");
  expect(screen.getByRole("status").textContent).toBe("3 suggestions");
});

test("the keyboard walks the list and takes from it, and the form is sent only when nothing is chosen", async () => {
  const { user } = page();
  await user.type(field(), "gemma");
  await screen.findAllByRole("option");
  await user.keyboard("{ArrowDown}{ArrowDown}");
  const active = document.getElementById(field().getAttribute("aria-activedescendant") ?? "");
  expect(active?.getAttribute("aria-selected")).toBe("true");
  expect(active?.textContent).toContain("gemma-2-2b-it");
  await user.keyboard("{ArrowUp}{ArrowUp}");
  expect(field().getAttribute("aria-activedescendant")).toBeNull();
  await user.keyboard("{ArrowUp}{ArrowUp}{Enter}");
  expect(field().value).toBe("google/gemma-2-2b-it");
  expect(options()).toEqual([]);
  expect(submitted).not.toHaveBeenCalled();
  await user.keyboard("{Enter}");
  expect(submitted).toHaveBeenCalledWith("google/gemma-2-2b-it");
});

test("Escape and leaving the field close the list and keep what was typed", async () => {
  const { user } = page();
  await user.type(field(), "gemma");
  await screen.findAllByRole("option");
  await user.keyboard("{Escape}");
  expect(options()).toEqual([]);
  expect(field().value).toBe("gemma");
  await user.keyboard("{ArrowDown}");
  await screen.findAllByRole("option");
  await user.tab();
  expect(options()).toEqual([]);
});

test("a click takes a suggestion and leaves the focus in the field", async () => {
  const { user } = page();
  await user.type(field(), "gemma");
  await user.click(await screen.findByText("acme/gemma-mamba"));
  expect(field().value).toBe("acme/gemma-mamba");
  expect(document.activeElement).toBe(field());
  expect(options()).toEqual([]);
});

test("an answer that comes too late is dropped", async () => {
  let answerFirst = (_: object) => {};
  const { user, asked } = page((query) =>
    query === "gemma"
      ? new Promise<object>((resolve) => {
          answerFirst = resolve;
        })
      : answer(["o/llama-1", "o/llama-2"]),
  );
  await user.type(field(), "gemma");
  await waitFor(() => expect(asked).toEqual(["gemma"]));
  await user.clear(field());
  await user.type(field(), "llama");
  await screen.findByText("o/llama-1");
  answerFirst(answer(NAMES));
  await settled();
  expect(options().join()).not.toContain("gemma");
});

test("no answer, an empty one, and the very thing that was typed suggest nothing", async () => {
  let answers = 0;
  const { user } = page((query) => {
    answers += 1;
    if (query === "fails") {
      throw new ConnectError("no", Code.Unavailable);
    }
    return answer(query === "o/n" ? ["o/n"] : []);
  });
  for (const text of ["fails", "none", "o/n"]) {
    const before = answers;
    await user.clear(field());
    await user.type(field(), text);
    await waitFor(() => expect(answers).toBe(before + 1));
    await settled();
    expect(options()).toEqual([]);
    expect(screen.queryByRole("alert")).toBeNull();
  }
});

test("what is looked for, and what of an older answer still fits", () => {
  expect(searchText(" g ")).toBe("");
  expect(searchText("https://huggingface.co/google/gemma-2-2b")).toBe("google/gemma-2-2b");
  expect(searchText("https://example.org/x")).toBe("");
  const { repos } = answer(NAMES);
  const names = (wanted: string) => fitting(repos, wanted).map((repo) => repo.repoId);
  expect(names("gem")).toEqual(NAMES);
  expect(names("gemma-2-2b-")).toEqual(["google/gemma-2-2b-it"]);
  expect(names("llama")).toEqual([]);
  expect(names("")).toEqual([]);
});
