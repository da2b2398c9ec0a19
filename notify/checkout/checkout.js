// Tells a checkout page what became of its payment.
//
//   import { listen } from 'https://rebound.example/checkout.js'
//   listen(clientSecret, { onFailed: (failure) => show(failure.message), onSucceeded: () => done() })
//
// or, without a line of code:
//
//   <script type="module" src="https://rebound.example/checkout.js"></script>
//   <rebound-checkout client-secret="pi_…_secret_…"></rebound-checkout>

const SILENCE = 45_000 // ms; the server sends something every 15 s
const FIRST_WAIT = 1_000 // ms, doubled up to MAX_WAIT with every attempt that brings nothing
const MAX_WAIT = 30_000
const MAX_RETRY_AFTER = 300_000 // ms; a proxy may ask for more, up to what a timer takes for no time at all
const STEADY = 30_000 // ms; a connection that lived this long was a good one
const MAX_MESSAGE = 65_536 // characters

// streamOf is where the stream is beside this module, or below a server: a proxy may have put both behind a path.
const streamOf = (base) => new URL('v1/checkout/events', base)

/**
 * Listens for what becomes of one payment. EventSource cannot send the header that carries the secret, and a secret has
 * no place in a URL, so this reads the stream by fetch.
 *
 * @param {string} clientSecret the client secret of the PaymentIntent that the page pays with
 * @param {object} [options]
 * @param {string|URL} [options.url] the stream; by default that of the server this module came from
 * @param {(failure: {payment_intent: string, code: string, message: string, next_step: string,
 *   field: string|null, retry_same_method: boolean, locale: string}) => void} [options.onFailed]
 *   called for each message about a failed attempt; a later one replaces the earlier
 * @param {(success: {payment_intent: string}) => void} [options.onSucceeded] called once; listening ends with it
 * @param {AbortSignal} [options.signal] ends listening
 * @returns {Promise<void>} resolves when listening has ended by success or signal; rejects when the server refuses for
 *   good (its `status` is the answer's: 401 a malformed secret, 403 an origin that is not allowed)
 */
export async function listen(clientSecret, { url = streamOf(import.meta.url), onFailed, onSucceeded, signal } = {}) {
  let lastId = ''
  let failures = 0
  while (!signal?.aborted) {
    const attempt = new AbortController()
    const stop = () => attempt.abort()
    signal?.addEventListener('abort', stop)
    let timer = setTimeout(stop, SILENCE)
    let retryAfter = 0
    let steady = false
    const began = performance.now()
    try {
      const headers = { Authorization: `Bearer ${clientSecret}`, Accept: 'text/event-stream' }
      if (lastId) headers['Last-Event-ID'] = lastId
      const response = await fetch(url, {
        headers, cache: 'no-store', credentials: 'omit', mode: 'cors', referrerPolicy: 'no-referrer', signal: attempt.signal,
      })
      if (response.status >= 400 && response.status < 500 && response.status !== 408 && response.status !== 429) {
        throw Object.assign(new Error(`the checkout stream was refused with status ${response.status}`), { status: response.status })
      }
      if (response.ok && response.body) {
        for await (const { event, data, id } of messages(response.body, () => {
          clearTimeout(timer)
          timer = setTimeout(stop, SILENCE)
        })) {
          steady = true
          if (id) lastId = id
          if (event === 'payment_failed') call(onFailed, data)
          if (event === 'payment_succeeded') {
            call(onSucceeded, data)
            return
          }
        }
      } else {
        retryAfter = Math.min(1_000 * (Number(response.headers.get('Retry-After')) || 0), MAX_RETRY_AFTER)
      }
    } catch (error) {
      if (error.status) throw error
      // Anything else is the network's doing, and worth another try.
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
      attempt.abort()
    }
    failures = steady || performance.now() - began > STEADY ? 0 : failures + 1
    const wait = Math.min(FIRST_WAIT * 2 ** Math.max(failures - 1, 0), MAX_WAIT)
    // Half of it is chance: all pages lose a server that restarts in the same moment.
    await pause(Math.max(retryAfter, wait / 2) + Math.random() * wait / 2, signal)
  }
}

// A page's own error must not end the stream.
function call(listener, data) {
  try {
    listener?.(JSON.parse(data))
  } catch (error) {
    reportError(error)
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done)
    if (signal?.aborted) done()
  })
}

// messages reads Server-Sent Events as the HTML standard has them. alive is called whenever bytes arrive.
async function* messages(body, alive) {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let text = ''
  let event = ''
  let data = []
  let id = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      alive()
      text += decoder.decode(value, { stream: true })
      if (text.length > MAX_MESSAGE) throw new Error('a message of the checkout stream is too long')
      // A CR at the very end may be half of a CR LF: it waits for what follows.
      const lines = text.split(/\r\n|\n|\r(?!$)/)
      text = lines.pop()
      for (const line of lines) {
        if (line === '') {
          if (data.length) yield { event: event || 'message', data: data.join('\n'), id }
          event = ''
          data = []
          continue
        }
        const colon = line.indexOf(':')
        if (colon === 0) continue // a comment
        const field = colon < 0 ? line : line.slice(0, colon)
        const content = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
        if (field === 'event') event = content
        if (field === 'data') data.push(content)
        if (field === 'id' && !content.includes('\0')) id = content
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

const RIGHT_TO_LEFT = new Set(['ar', 'ckb', 'dv', 'fa', 'he', 'ps', 'sd', 'ug', 'ur', 'yi'])

const STYLE = `
  :host { display: block }
  :host([hidden]) { display: none }
  [part=message] {
    margin: 0; padding: .75em 1em; border-inline-start: .25em solid #b3261e; border-radius: .25em;
    background: #fdecea; color: #3b0b08; font: inherit; line-height: 1.4; overflow-wrap: anywhere;
  }
  @media (prefers-color-scheme: dark) {
    [part=message] { background: #3b0b08; color: #fdecea; border-color: #f2b8b5 }
  }
`

// Where there is no document (a server that renders pages), only listen is of use.
const Base = globalThis.HTMLElement ?? class {}

/**
 * `<rebound-checkout client-secret="pi_…_secret_…" server="https://rebound.example">` shows what to do when a payment
 * fails, and nothing otherwise. Without `server` it asks the one that this module came from. It dispatches
 * `rebound-failed` and `rebound-succeeded` (bubbling; the data is in `detail`), and its text can be styled as
 * `rebound-checkout::part(message)`.
 */
export class ReboundCheckout extends Base {
  static observedAttributes = ['client-secret', 'server']
  #listening
  #alert

  connectedCallback() {
    if (!this.#alert) {
      const root = this.attachShadow({ mode: 'open' })
      try {
        const sheet = new CSSStyleSheet() // not a style element: the page's policy may forbid those
        sheet.replaceSync(STYLE)
        root.adoptedStyleSheets = [sheet]
      } catch { // Safari before 16.4
        root.append(Object.assign(document.createElement('style'), { textContent: STYLE }))
      }
      // Present and empty before anything happens: a live region that comes with its text is often not read out.
      this.#alert = document.createElement('div')
      this.#alert.setAttribute('role', 'alert')
      this.#alert.setAttribute('aria-atomic', 'true')
      root.append(this.#alert)
    }
    this.#start()
  }

  disconnectedCallback() {
    this.#listening?.abort()
    this.#listening = undefined
  }

  attributeChangedCallback(name, before, after) {
    if (before !== after && this.#listening) this.#start()
  }

  #start() {
    this.#listening?.abort()
    const listening = new AbortController()
    this.#listening = listening
    this.#alert.replaceChildren()
    const secret = this.getAttribute('client-secret')
    if (!secret) return
    const server = this.getAttribute('server')
    listen(secret, {
      url: streamOf(server ? server.replace(/\/*$/, '/') : import.meta.url),
      signal: listening.signal,
      onFailed: (failure) => this.#show(failure),
      onSucceeded: (success) => {
        this.#alert.replaceChildren()
        this.#tell('rebound-succeeded', success)
      },
    }).catch((error) => console.error('rebound-checkout:', error.message))
  }

  #show(failure) {
    const text = document.createElement('p') // a new one each time, so that the same words are read out again
    text.part = 'message'
    text.lang = failure.locale
    text.dir = RIGHT_TO_LEFT.has(failure.locale.split('-')[0]) ? 'rtl' : 'ltr'
    text.textContent = failure.message
    this.#alert.replaceChildren(text)
    this.#tell('rebound-failed', failure)
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }))
  }
}

if (globalThis.customElements && !customElements.get('rebound-checkout')) {
  customElements.define('rebound-checkout', ReboundCheckout)
}
