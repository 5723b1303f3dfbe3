package ratelimit

type rendered struct{}

func render(*Plan) rendered { return rendered{} }
