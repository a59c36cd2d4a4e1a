// What the tests need to know of the server they run against.

export const REPO = needed("MILLM_REPO", "a repository of the hub, owner/name");
export const MODEL = REPO.slice(REPO.indexOf("/") + 1);
needed("MILLM_URL", "the address of a running `millm serve`");

export function needed(name: string, what: string): string {
  const value = process.env[name];
  if (!value) {
    throw new Error(`set ${name}: ${what}`);
  }
  return value;
}
