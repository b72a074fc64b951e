// The client of the API reference's Go example, pinned for the test that builds and runs it.
module example

go 1.21

require github.com/sashabaranov/go-openai v1.43.0
