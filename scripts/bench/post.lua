-- What wrk sends: a small chat request. aigw's cache must not answer it, so that every request is relayed.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["x-aigw-cache"] = "bypass"
wrk.body = '{"model":"fixed","messages":[{"role":"user","content":"Tell me about the quick brown fox, please."}]}'
