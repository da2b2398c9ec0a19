package webhook

// The payloads of this file are made up, in the shapes that Frame documents; no value is real.

// frameCharge is charge.failed.
const frameCharge = `{
 "id":"evt_demo_0001","object":"event","type":"charge.failed","created":1767225600,"livemode":false,
 "data":{"id":"4b0c7c1e-0d7a-4f43-9d1e-2f6f2d3b9a01","object":"charge","amount":4200,"amount_captured":0,"amount_refunded":0,
  "currency":"usd","status":"failed","captured":false,"refunded":false,"disputed":false,
  "failure_code":"insufficient_funds","failure_message":"Demo text from the processor.","failure_category":null,
  "description":"SENTINEL-description",
  "charge_intent":"9f2d6b54-7c1a-4f0e-8a77-5b3c0f1e2d02","charge_intent_id":"9f2d6b54-7c1a-4f0e-8a77-5b3c0f1e2d02",
  "customer":null,"account":"c1a7e3d0-2b44-4c39-9a5e-6d8f7b0a1c03","payment_method":"e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04",
  "payment_method_details":{"id":"e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04","object":"payment_method","type":"card","status":"active",
   "customer_id":null,"account_id":"c1a7e3d0-2b44-4c39-9a5e-6d8f7b0a1c03",
   "billing":{"line_1":"SENTINEL-street","postal_code":"SENTINEL-zip"},
   "card":{"brand":"visa","last_four":"6186","exp_month":"08","exp_year":"31","issuer":"SENTINEL-issuer","currency":null,"segment":null,
    "type":null,"card_number":"SENTINEL-number","cvc":"SENTINEL-cvc"},
   "created":1767220000,"updated":1767220000,"livemode":false},
  "acquirer_reference_number":"SENTINEL-arn","authorization_code":"SENTINEL-auth","shipping":{"line_1":"SENTINEL-ship"},
  "created":1767225599,"updated":1767225600,"livemode":false}}`

// frameTransfer is transfer.failed of the same attempt.
const frameTransfer = `{
 "id":"evt_demo_0002","object":"event","type":"transfer.failed","created":1767225601,"livemode":false,
 "data":{"id":"07d3c5b2-91ee-4a68-b3f4-1c2d9e8a7f05","object":"transfer","status":"failed","amount":4200,"currency":"USD",
  "platform_fee":0,"frame_fee":0,"total_fees":0,"gross_amount":4300,"net_amount":4100,"description":"SENTINEL-description",
  "failure_reason":"Demo free text.","charge_intent":"9f2d6b54-7c1a-4f0e-8a77-5b3c0f1e2d02","payout":null,"billing_agreement":null,
  "client_secret":"ci_demo_secret_SENTINEL","account":"c1a7e3d0-2b44-4c39-9a5e-6d8f7b0a1c03","account_id":"c1a7e3d0-2b44-4c39-9a5e-6d8f7b0a1c03",
  "source_payment_method":{"id":"e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04","object":"payment_method","type":"card",
   "card":{"brand":"visa","last_four":"6186","exp_month":"08","exp_year":"31"}},
  "destination_payment_method":null,
  "metadata":{"session":"off_session","email":"meta@example.com","locale":"de-AT","order":"SENTINEL-metadata"},
  "created":1767225590,"livemode":false}}`

// frameIntent is charge_intent.payment_failed of the same attempt.
const frameIntent = `{
 "id":"evt_demo_0003","object":"event","type":"charge_intent.payment_failed","created":1767225602,"livemode":false,
 "data":{"id":"9f2d6b54-7c1a-4f0e-8a77-5b3c0f1e2d02","object":"charge_intent","amount":4200,"currency":"usd","status":"incomplete",
  "description":"SENTINEL-description","failure_description":"Demo description.","client_secret":"ci_demo_secret_SENTINEL",
  "customer":{"id":"cus_demo_1","object":"customer","name":"SENTINEL-name","email":"payer@example.com","phone":"SENTINEL-phone",
   "billing_address":{"line_1":"SENTINEL-street"},"metadata":{"email":"SENTINEL-other"}},
  "account":"c1a7e3d0-2b44-4c39-9a5e-6d8f7b0a1c03","payment_method":"e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04",
  "latest_charge":{"id":"4b0c7c1e-0d7a-4f43-9d1e-2f6f2d3b9a01","object":"charge","amount":4200,"currency":"usd","status":"failed",
   "failure_code":"insufficient_funds","failure_message":"Demo text from the processor.","charge_intent":"9f2d6b54-7c1a-4f0e-8a77-5b3c0f1e2d02",
   "authorization_code":"SENTINEL-auth","payment_method":"e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04",
   "payment_method_details":{"id":"e5b8f9a1-3c66-4d21-8b7f-0a9c2e4d6f04","type":"card",
    "card":{"brand":"visa","last_four":"6186","exp_month":"08","exp_year":"31"},"created":1767220000},"created":1767225599},
  "metadata":{"session":"off_session","email":"meta@example.com","locale":"de-AT","order":"SENTINEL-metadata"},
  "subscription":null,"invoice":null,"reference_id":"SENTINEL-reference",
  "next_action":{"type":"use_frame_sdk","use_frame_sdk":{"source":"SENTINEL-source"}},"created":1767225580}}`

// framePayout is transfer.failed of money on its way out.
const framePayout = `{
 "id":"evt_demo_0004","object":"event","type":"transfer.failed","created":1767225603,"livemode":true,
 "data":{"id":"7c11d0c4-66c2-4f0c-9a70-0d5a2b8e1f06","object":"transfer","status":"failed","amount":90000,"currency":"USD",
  "failure_reason":"Account closed.","charge_intent":null,"payout":"po_demo_1","billing_agreement":null,"client_secret":null,
  "account":"5d0f3c1b-8e2a-4b7d-9c6f-1a2b3c4d5e07","account_id":"5d0f3c1b-8e2a-4b7d-9c6f-1a2b3c4d5e07",
  "source_payment_method":null,
  "destination_payment_method":{"id":"SENTINEL-destination","type":"ach","ach":{"account_number":"SENTINEL-number","last_four":"SENTINEL-4"}},
  "metadata":{},"created":1767225595,"livemode":true}}`
