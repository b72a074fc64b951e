-- What wrk sends where the answer may be a kept one: the same small chat request each time.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"fixed","messages":[{"role":"user","content":"Tell me about the quick brown fox, please."}]}'
