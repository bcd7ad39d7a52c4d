// Talking to the API: JSON, and server-sent events in the response to a POST.

const start = new URLSearchParams(location.hash.slice(1)).get("token");
if (start) {
  sessionStorage.setItem("token", start);
  history.replaceState(null, "", location.pathname); // not for the history, nor for whoever looks over a shoulder
}

function headers(more = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

export class Problem extends Error {}

async function problemOf(response) {
  let sentence = `The server answered ${response.status}.`;
  try {
    sentence = (await response.json()).error ?? sentence;
  } catch { /* not JSON: the status has to do */ }
  return new Problem(sentence);
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(`api/v1/${path}`, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer. Is it still running?");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

export async function ask(path) {
  return (await send(path, {})).json();
}

export async function picture(path) {
  return URL.createObjectURL(await (await send(path, {})).blob());
}

/** Post a picture, or the name of a sample, and call `tell(kind, data)` for every event of the answer. */
export async function follow(path, parameters, body, signal, tell) {
  const response = await send(`${path}?${parameters}`, {
    method: "POST", body, signal, headers: { Accept: "text/event-stream", "Content-Type": "application/octet-stream" },
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", ended = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [, kind, data] = /^event: (\w+)\ndata: (.*)$/s.exec(event);
      const said = JSON.parse(data);
      if (kind === "error") throw new Problem(said.error);
      ended = kind !== "progress" && kind !== "look" && kind !== "picture";
      tell(kind, said);
    }
  }
  if (!ended) throw new Problem("The server broke off. Is it still running?");
}
