-- What wrk sends: a small chat request.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"fixed","messages":[{"role":"user","content":"Tell me about the quick brown fox, please."}]}'
