const byId = (id) => document.getElementById(id)
const messages = byId('messages')
const button = byId('pay')
let payment

async function ask(path, body) {
  const response = await fetch(path, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body ?? {}),
  })
  if (!response.ok) throw new Error(`the shop answered ${response.status}`)
  return response.json()
}

// What a merchant's page does: get the payment from its own server, hand the client secret to the element.
async function open() {
  payment = await ask('/shop/checkout')
  byId('payment').textContent = payment.payment_intent
  byId('status').textContent = 'not tried yet'
  byId('done').hidden = byId('again').hidden = true
  byId('form').hidden = false
  button.disabled = false
  messages.setAttribute('client-secret', payment.client_secret)
}

async function pay(result) {
  button.disabled = true
  byId('status').textContent = 'the provider is working on it…'
  try {
    await ask('/shop/try', { payment_intent: payment.payment_intent, result })
  } catch (error) {
    byId('status').textContent = error.message
    button.disabled = false
  }
}

messages.addEventListener('rebound-failed', () => {
  byId('status').textContent = 'failed'
  button.disabled = false
})
messages.addEventListener('rebound-succeeded', () => {
  byId('status').textContent = 'paid'
  byId('done').hidden = byId('again').hidden = false
  byId('form').hidden = true
})
byId('form').addEventListener('submit', (event) => {
  event.preventDefault()
  pay(new FormData(event.target).get('result'))
})
byId('again').addEventListener('click', open)

await open()
// The first try is made for the visitor, so that there is something to see at once; ?try=no leaves it to them.
if (new URLSearchParams(location.search).get('try') !== 'no') await pay('insufficient-funds')
